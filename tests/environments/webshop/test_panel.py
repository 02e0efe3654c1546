"""Splits that do not leak, and those of published numbers."""

import random

import pytest

from gigpo_lightning.environments.webshop import Catalogue, ShopSettings, WebShopTasks, webshop_panel
from gigpo_lightning.environments.webshop.offline.generator import catalogue_files
from gigpo_lightning.environments.webshop.panel import SPLITS
from tests.environments.webshop.official import PRODUCTS, choice, entry, write


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Catalogue:
    """Forty products; every fourth has two options, every tenth has one of four instructions."""
    products, attributes = [], {}
    for number in range(40):
        asin = f"B{number:09d}"
        options = {"size": choice("small", "large")} if number % 4 == 0 else ""
        products.append(entry(asin, name=f"Chair {number}", customization_options=options, pricing="$20.0$60.0"))
        attributes[asin] = {
            "attributes": ["good"],
            "instruction": f"Find me chair {number % 36}",
            "instruction_attributes": ["good"],
        }
    return Catalogue.load(**write(tmp_path_factory.mktemp("forty"), products, attributes))


def goals(catalogue, split, **options):
    return [task.payload["goal"] for task in webshop_panel(catalogue, split, **options).tasks]


def test_no_product_and_no_instruction_is_in_two_splits(catalogue):
    by_split = [goals(catalogue, split) for split in SPLITS]
    assert all(by_split)
    for what in ("asin", "instruction"):
        sets = [{getattr(goal, what) for goal in split} for split in by_split]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_one_instruction_of_two_products_is_asked_on_one_side_only(tmp_path):
    products = [entry(f"B{number:09d}", pricing="$999.0") for number in range(10)]
    one = {"attributes": ["good"], "instruction": "Find me a chair", "instruction_attributes": ["good"]}
    same = Catalogue.load(**write(tmp_path, products, {product["asin"]: one for product in products}))
    assert len(goals(same, "train")) == 8
    with pytest.raises(ValueError, match="catalogue must have goals for split 'valid', but of its 10 none is left"):
        webshop_panel(same, "valid")


def test_the_thousand_products_do_not_leak(thousand):
    by_split = [goals(thousand, split) for split in SPLITS]
    assert [len(split) for split in by_split] == [5271, 951, 687]
    for what in ("asin", "instruction"):
        sets = [{getattr(goal, what) for goal in split} for split in by_split]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_verl_agents_split_is_one_fixed_shuffle_of_all_goals(thousand):
    held_out, train = (goals(thousand, split, scheme="verl_agent") for split in ("valid", "train"))
    shuffled = list(thousand.goals)
    random.Random(233).shuffle(shuffled)
    assert [*held_out, *train] == shuffled
    assert len(held_out) == 500
    trained = {goal.asin for goal in train}
    assert sum(goal.asin in trained for goal in held_out) > 0.9 * 500  # what the clean split is for


def test_the_same_data_and_seed_give_the_same_panel(catalogue):
    again = Catalogue.load(*catalogue._files)
    assert webshop_panel(again, "train").sha256 == webshop_panel(catalogue, "train").sha256
    assert webshop_panel(catalogue, "train", seed=1).sha256 != webshop_panel(catalogue, "train").sha256


def test_a_panels_hash_covers_the_price_limits(catalogue):
    other = Catalogue.load(*catalogue._files, price_seed=1)
    names = [[task.task_id for task in webshop_panel(each, "train").tasks] for each in (catalogue, other)]
    assert names[0] == names[1]
    assert webshop_panel(other, "train").sha256 != webshop_panel(catalogue, "train").sha256


def test_a_panels_hash_covers_all_that_the_reward_reads(tmp_path):
    hashes = set()
    for number, change in enumerate(
        ({}, {"name": "Another"}, {"query": "stools"}, {"product_category": "Home › Stools"})
    ):
        (tmp_path / str(number)).mkdir()
        products = [entry("B000000001", **change), *PRODUCTS[1:]]
        catalogue = Catalogue.load(**write(tmp_path / str(number), products))
        hashes.add(webshop_panel(catalogue, "valid", "verl_agent").sha256)  # so few goals are all held out
    assert len(hashes) == 4


def test_products_with_many_goals_can_be_held_back(catalogue):
    limited = goals(catalogue, "train", max_goals_per_product=1)
    assert len(limited) == len({goal.asin for goal in limited}) == len({g.asin for g in goals(catalogue, "train")})


@pytest.mark.slow
def test_goals_that_their_own_product_does_not_meet_can_be_left_out(thousand):
    for scheme, left_out in (("verl_agent", 458), ("by_product", 458)):
        splits = ("train", "valid", "test")[: 2 if scheme == "verl_agent" else 3]
        whole, reachable = (
            sum(len(webshop_panel(thousand, split, scheme, reachable_only=only)) for split in splits)
            for only in (False, True)
        )
        assert whole - reachable == left_out


def test_a_tasks_kind_is_its_category(catalogue):
    assert {task.kind for task in webshop_panel(catalogue, "train").tasks} == {"garden"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"split must be one of \('train', 'valid', 'test'\) with scheme 'by_product', got 'dev'"),
        (
            {"split": "test", "scheme": "verl_agent"},
            r"split must be one of \('train', 'valid'\) with scheme 'verl_agent'",
        ),
        ({"split": "train", "max_goals_per_product": 0}, "max_goals_per_product must be >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(catalogue, arguments, message):
    with pytest.raises(ValueError, match=message):
        webshop_panel(catalogue, **arguments)


def test_a_runs_tasks_are_the_panels(catalogue):
    tasks = WebShopTasks(catalogue, max_goals_per_product=1, seed=4)
    tasks.prepare()
    expected = webshop_panel(catalogue, "valid", seed=4, max_goals_per_product=1)
    assert tasks.panel("valid") == expected


def test_a_catalogue_is_made_where_it_is_asked_for(tmp_path):
    products, attributes = catalogue_files(tmp_path / "shop")
    tasks = WebShopTasks(Catalogue(products, attributes), generated=ShopSettings(num_products=60))
    tasks.prepare()
    assert len(tasks.catalogue) == 60
    assert all(len(tasks.panel(split)) for split in SPLITS)


def test_nothing_is_made_unasked(tmp_path):
    products, attributes = catalogue_files(tmp_path / "shop")
    WebShopTasks(Catalogue(products, attributes)).prepare()
    assert not (tmp_path / "shop").exists()


def test_a_catalogue_is_made_under_its_own_names_only(tmp_path):
    with pytest.raises(ValueError, match=r"catalogue must name .*items_shuffle\.json and .* to be generated"):
        WebShopTasks(Catalogue(tmp_path / "a.json", tmp_path / "b.json"), generated=ShopSettings())
