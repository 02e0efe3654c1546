"""The official files, read by the rules of the original's loader."""

import copy
import json
import pickle
import random

import pytest

from gigpo_lightning.environments.webshop import Catalogue
from gigpo_lightning.environments.webshop.products import read_pricing, searchable_text
from tests.environments.webshop.official import ATTRIBUTES, PRODUCTS, entry, write


def test_a_product_is_what_its_entries_say(tmp_path):
    catalogue = Catalogue.load(**write(tmp_path))
    chair = catalogue["B000000001"]
    assert (chair.title, chair.description, chair.bullets) == (
        "Red Oak Chair",
        "A chair of red oak.",
        ("good", "cheap"),
    )
    assert chair.options == {"size": ("small", "large"), "color": ("red | white", "blue")}
    assert chair.attributes == ("solid wood", "easy clean")
    assert (chair.query, chair.category) == ("chairs", "garden")
    assert catalogue["B000000002"].bullets == ("One text only",)
    assert catalogue["B000000002"].attributes == ()


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("$8.99$25.99", (8.99, 25.99), "$8.99 to $25.99"),
        ("$877.80", (877.8,), "$877.8"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$1.0$2.0$3.0", (1.0, 2.0), "$1.0 to $2.0"),
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
    ],
)
def test_a_price_is_one_number_or_a_range(pricing, prices, tag):
    assert read_pricing(pricing) == (prices, tag)


def test_what_is_no_product_is_skipped_as_the_original_does(tmp_path):
    extra = [entry("nan"), entry("B00000000012"), entry("B000000001", name="Again")]
    catalogue = Catalogue.load(**write(tmp_path, [*extra, *PRODUCTS, entry("B000000002", name="Again, too")]))
    assert len(catalogue) == len(PRODUCTS)
    assert catalogue["B000000002"].title == "Blue Pine Chair"  # the first of a name counts
    assert catalogue["B000000001"].title == "Again"


def test_the_first_entries_are_counted_before_any_is_skipped(tmp_path):
    paths = write(tmp_path, [entry("nan"), *PRODUCTS])
    assert len(Catalogue.load(**paths, num_products=3)) == 2


def test_the_index_holds_title_description_first_bullet_and_options(tmp_path):
    chair = Catalogue.load(**write(tmp_path))["B000000001"]
    text = "red oak chair a chair of red oak. good size: small, large, and color: red | white, blue"
    assert searchable_text(chair) == text
    found = Catalogue.load(**write(tmp_path)).search("steel lamp", 3)
    assert [asin for asin, _ in found] == ["B000000003", "B000000004"]
    assert found[0][1] > found[1][1] > 0


def test_prices_of_a_range_are_those_of_pythons_generator(tmp_path):
    paths = write(tmp_path)
    price = Catalogue.load(**paths, price_seed=7).price("B000000002")
    assert price == random.Random(7).uniform(10.0, 35.0)
    assert price != Catalogue.load(**paths).price("B000000002")
    assert Catalogue.load(**paths).price("B000000003") == 100.0


def test_a_goal_is_made_of_every_combination_of_options(tmp_path):
    catalogue = Catalogue.load(**write(tmp_path))
    goals = [goal for goal in catalogue.goals if goal.asin == "B000000001"]
    assert [goal.options for goal in goals] == [
        (("color", color), ("size", size)) for color in ("red | white", "blue") for size in ("small", "large")
    ]
    (limit,) = {goal.price_upper for goal in goals}  # one a product
    assert limit in (40.0, 50.0, 60.0)  # the larger of two of 30, 40, 50 and 60
    asked = f"Find me solid wood chairs with color: blue, and size: small, and price lower than {limit:.2f} dollars"
    assert goals[2].instruction == asked
    (dear,) = [goal for goal in catalogue.goals if goal.asin == "B000000004"]
    assert (dear.instruction, dear.price_upper) == ("Find me energy saving brass lamps", 1_000_000.0)


def test_a_common_attribute_weighs_less(tmp_path):
    weights = {goal.asin: goal.weight for goal in Catalogue.load(**write(tmp_path)).goals}
    assert weights == {"B000000001": 1 / 4, "B000000003": 1 / 2, "B000000004": 1 / 2}


def test_price_limits_are_drawn_after_all_prices_by_the_same_generator(tmp_path):
    catalogue = Catalogue.load(**write(tmp_path), price_seed=3)
    rng = random.Random(3)
    rng.uniform(10.0, 35.0)
    expected = [max(rng.sample([30.0, 40.0, 50.0, 60.0], 2)), max(rng.sample([110.0, 120.0, 130.0, 140.0], 2))]
    assert list(dict.fromkeys(goal.price_upper for goal in catalogue.goals))[:2] == expected


def test_goals_of_people_are_read_as_they_wrote_them(tmp_path):
    wish = {
        "instruction": "i want an oak chair.",
        "instruction_attributes": ["solid wood"],
        "instruction_options": ["red"],
    }
    people = {"B000000001": [wish, wish | {"instruction_attributes": []}], "B099999999": [wish]}
    catalogue = Catalogue.load(**write(tmp_path, people=people))
    (goal,) = catalogue.goals
    assert goal.instruction.startswith("i want an oak chair, and price lower than ")
    assert (goal.options, goal.weight) == (("red",), 1.0)


def test_with_goals_of_people_a_product_may_lack_attributes(tmp_path):
    few = {asin: ATTRIBUTES[asin] for asin in ("B000000001", "B000000002")}
    with pytest.raises(ValueError, match=r"attributes.json must have every product of .*, but lacks 'B000000003'"):
        Catalogue.load(**write(tmp_path, attributes=few))
    (tmp_path / "people").mkdir()
    catalogue = Catalogue.load(**write(tmp_path / "people", attributes=few, people={}))
    assert catalogue["B000000003"].attributes == ("DUMMY_ATTR",)


@pytest.mark.parametrize(
    ("products", "message"),
    [
        ([], "products.json must list at least one product, got none"),
        (["chair"], "products.json must list products, each with an 'asin', got 'chair'"),
        ([{"name": "a chair"}], "products.json must list products, each with an 'asin'"),
        ([{"asin": "B000000001"}], "products.json: product 'B000000001' must have the key 'small_description'"),
        (
            [entry("B000000001", pricing="cheap")],
            r"product 'B000000001' must have the official form, but: pricing must",
        ),
        (
            [entry("B000000001", pricing="$")],
            "product 'B000000001' must have the official form, but: could not convert",
        ),
        ([entry("B000000001", name=None)], "must have the official form, but: text was expected, got None"),
        ([entry("B000000001", customization_options={"size": [{}]})], "must have the key 'value'"),
    ],
)
def test_a_corrupt_product_file_is_one_clear_error(tmp_path, products, message):
    with pytest.raises(ValueError, match=message):
        Catalogue.load(**write(tmp_path, products))


def test_an_id_that_no_click_could_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"products.json must have ids in upper case, got 'b000000009'"):
        Catalogue.load(**write(tmp_path, [entry("b000000009")]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "must be an object, got None"),
        ({"attributes": None}, "must list texts as its attributes, got None"),
        ({"attributes": "abc"}, "must list texts as its attributes, got 'abc'"),
        ({"attributes": [], "instruction": 3}, "must have a text as its instruction, got 3"),
        ({"instruction_attributes": "ab"}, "must list texts as its instruction_attributes, got 'ab'"),
    ],
)
def test_a_corrupt_attribute_file_is_one_clear_error(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=rf"attributes.json, product 'B000000003' {message}"):
        Catalogue.load(**write(tmp_path, attributes=ATTRIBUTES | {"B000000003": wrong}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "must be a list of objects, got {}"),
        ([{}], "must have a text as its instruction, got None"),
        ([{"instruction": "a lamp"}], "must list texts as its instruction_attributes, got None"),
        ([{"instruction": "a", "instruction_attributes": "xy"}], "must list texts as its instruction_attributes"),
        ([{"instruction": "a", "instruction_attributes": ["x"]}], "must list texts as its instruction_options"),
    ],
)
def test_a_corrupt_file_of_instructions_is_one_clear_error(tmp_path, wrong, message):
    catalogue = Catalogue.load(**write(tmp_path, people={"B000000003": wrong}))
    with pytest.raises(ValueError, match=rf"human_goals.json, product 'B000000003' {message}"):
        _ = catalogue.goals


def test_an_instruction_without_attributes_is_refused(tmp_path):
    wrong = ATTRIBUTES | {"B000000003": {"attributes": [], "instruction": "Find me lamps"}}
    with pytest.raises(ValueError, match="product 'B000000003' has an instruction, and so must have"):
        _ = Catalogue.load(**write(tmp_path, attributes=wrong)).goals


def test_a_missing_file_is_named_when_the_catalogue_is_first_needed(tmp_path):
    catalogue = Catalogue(tmp_path / "products.json", tmp_path / "attributes.json")  # may be made in between
    with pytest.raises(ValueError, match=r"products.json must be a JSON file, but cannot be read"):
        catalogue.search("chair", 1)
    write(tmp_path)
    assert len(catalogue) == len(PRODUCTS)


def test_copies_share_what_was_read_and_cost_nothing_to_send(tmp_path):
    catalogue = Catalogue.load(**write(tmp_path))
    assert len(pickle.dumps(catalogue)) < 1000
    for other in (copy.deepcopy(catalogue), pickle.loads(pickle.dumps(catalogue)), Catalogue(*catalogue._files)):
        assert other.shelves is catalogue.shelves


def test_the_thousand_products_give_the_6910_goals_of_the_original(thousand):
    goals = thousand.goals
    assert len(goals) == 6910
    assert len({goal.asin for goal in goals}) == 415
    assert len({json.dumps([goal.instruction, goal.options]) for goal in goals}) <= 6901
