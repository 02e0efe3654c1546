"""Generated catalogues: their form, what makes them a shop to choose in, and how they come to be on disk."""

import itertools
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from gigpo_lightning.environments.webshop.offline.generator import ShopSettings, generate_catalogue, webshop_words
from gigpo_lightning.environments.webshop.offline.wares import DEPARTMENTS

SETTINGS = ShopSettings(num_products=200, seed=5)
RICH = ShopSettings(num_products=120, price_ranges=0.5, hidden_attributes=0.5, description_words=30, plain=0.0)


def load(files: tuple[Path, Path]) -> tuple[list[dict], dict]:
    products, attributes = (json.loads(file.read_text()) for file in files)
    return products, attributes


def make(folder: Path, settings: ShopSettings = SETTINGS) -> tuple[list[dict], dict]:
    return load(generate_catalogue(folder / "shop", settings))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict]:
    return make(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict]:
    return make(tmp_path_factory.mktemp("rich"), RICH)


class TestItsForm:
    def test_products_have_the_keys_that_official_ones_are_read_by(self, shop, shared_data: Path) -> None:
        official = json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text())
        assert {tuple(product) for product in shop[0]} == {tuple(official[0])}

    def test_values_have_types_that_official_ones_have(self, rich, shared_data: Path) -> None:
        official = json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text())
        for key in official[0]:
            assert {type(product[key]) for product in rich[0]} <= {type(product[key]) for product in official}, key

    def test_attributes_have_the_keys_that_official_ones_have(self, shop, shared_data: Path) -> None:
        official = json.loads((shared_data / "webshop" / "items_ins_v2_1000.json").read_text())
        keys = {tuple(entry) for entry in official.values()}
        assert {tuple(entry) for entry in shop[1].values()} <= keys

    def test_options_list_values_under_a_name(self, shop) -> None:
        values = [v for p in shop[0] if p["customization_options"] for v in p["customization_options"].items()]
        assert all(name.istitle() and all(value["value"] for value in listed) for name, listed in values)
        assert values

    def test_ids_are_ten_characters_and_differ(self, shop) -> None:
        ids = [product["asin"] for product in shop[0]]
        assert len(set(ids)) == 200
        assert all(re.fullmatch(r"B0[0-9A-Z]{8}", each) for each in ids)

    def test_every_product_has_its_attributes_and_no_other_has(self, shop) -> None:
        assert [product["asin"] for product in shop[0]] == list(shop[1])

    @pytest.mark.parametrize("made", ["shop", "rich"])
    def test_prices_are_one_or_a_lower_and_a_higher(self, made: str, request: pytest.FixtureRequest) -> None:
        for product in request.getfixturevalue(made)[0]:
            prices = [float(price) for price in product["pricing"].split("$")[1:]]
            assert len(prices) in (1, 2)
            assert prices == sorted(prices)
            assert all(0 < price < 100.5 for price in prices)

    def test_an_instruction_says_kind_and_every_attribute(self, shop) -> None:
        for product in shop[0]:
            entry = shop[1][product["asin"]]
            assert entry["instruction"].startswith("Find me ")
            assert product["query"] in entry["instruction"]
            assert all(attribute in entry["instruction"] for attribute in entry["attributes"])
            assert sorted(entry["instruction_attributes"]) == entry["attributes"]

    def test_an_instruction_is_said_as_official_ones_are(self, shop) -> None:
        one = "[a-z]+ [a-z]+"
        listed = f"{one}(, {one})*"
        pattern = f"Find me ({listed} )?{one}( with {listed})?( for {listed})?"
        assert all(re.fullmatch(pattern, entry["instruction"]) for entry in shop[1].values())
        assert any(" with " in entry["instruction"].split(" for ")[0] for entry in shop[1].values())


class TestAShopToChooseIn:
    def test_products_of_a_kind_differ_in_what_they_are(self, shop) -> None:
        by_kind = defaultdict(set)
        for product in shop[0]:
            by_kind[product["query"]].add(tuple(shop[1][product["asin"]]["attributes"]))
        assert len(by_kind) == 26
        assert sum(len(kinds) >= 3 for kinds in by_kind.values()) > 20

    @pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 60), (0.5, 120, 200)])
    def test_twins_are_the_same_but_for_price_or_options(
        self, tmp_path: Path, share: float, least: int, most: int
    ) -> None:
        products, attributes = make(tmp_path, ShopSettings(num_products=200, twins=share))
        groups = defaultdict(list)
        for product in products:
            key = (product["query"], *attributes[product["asin"]]["attributes"])
            groups[key].append((product["pricing"], json.dumps(product["customization_options"])))
        twins = [each for each in groups.values() if len(each) > 1]
        assert least <= sum(map(len, twins)) <= most
        assert sum(len(set(each)) > 1 for each in twins) >= 0.8 * len(twins)

    def test_some_have_options_and_some_have_none(self, shop) -> None:
        plain = sum(product["customization_options"] == "" for product in shop[0])
        assert 0.1 < plain / 200 < 0.3

    def test_a_title_tells_every_attribute(self, shop) -> None:
        for product in shop[0]:
            assert all(text in product["name"].lower() for text in shop[1][product["asin"]]["attributes"])

    def test_what_a_title_hides_the_features_tell(self, rich) -> None:
        hidden = 0
        for product in rich[0]:
            attributes = rich[1][product["asin"]]["attributes"]
            hidden += any(text not in product["name"].lower() for text in attributes)
            assert all(text in " ".join(product["small_description"]) for text in attributes)
        assert 30 < hidden < 90

    def test_no_attribute_passes_for_another(self) -> None:
        for department in DEPARTMENTS:
            for one, other in itertools.permutations(department.attributes, 2):
                assert fuzz.token_set_ratio(one.text, other.text) <= 85

    def test_no_value_of_an_option_passes_for_another(self) -> None:
        for department in DEPARTMENTS:
            for name, values in department.options.items():
                for one, other in itertools.permutations(values, 2):
                    assert fuzz.token_set_ratio(f"{name.lower()} {one}", other) <= 85

    def test_fewer_kinds_and_values_make_a_smaller_world(self, tmp_path: Path) -> None:
        products, _ = make(tmp_path, ShopSettings(num_products=60, num_kinds=3, values=2, option_names=1))
        assert len({product["query"] for product in products}) == 3
        options = [product["customization_options"] for product in products if product["customization_options"]]
        assert {len(each) for each in options} == {1}
        assert {len(values) for each in options for values in each.values()} == {2}

    @pytest.mark.parametrize("made", ["shop", "rich"])
    def test_every_word_is_in_the_vocabulary(self, made: str, request: pytest.FixtureRequest) -> None:
        text = json.dumps(
            [
                [product[key] for key in ("name", "full_description", "small_description", "product_category", "query")]
                for product in request.getfixturevalue(made)[0]
            ],
            ensure_ascii=False,
        )
        text += " ".join(entry["instruction"] for entry in request.getfixturevalue(made)[1].values())
        for product in request.getfixturevalue(made)[0]:
            for name, values in (product["customization_options"] or {}).items():
                text += " ".join((" ", name, *(value["value"] for value in values)))
        assert set(re.findall(r"[a-z]+", text.lower())) <= set(webshop_words())

    def test_words_are_sorted_and_come_once(self) -> None:
        assert list(webshop_words()) == sorted(set(webshop_words()))


class TestOnDisk:
    def test_the_same_settings_give_the_same_bytes(self, tmp_path: Path) -> None:
        one, other = (generate_catalogue(tmp_path / name, SETTINGS) for name in ("one", "other"))
        assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]

    def test_another_seed_gives_other_products(self, tmp_path: Path, shop) -> None:
        products, _ = make(tmp_path, ShopSettings(num_products=200, seed=6))
        assert {product["asin"] for product in products}.isdisjoint(product["asin"] for product in shop[0])
        assert [product["name"] for product in products] != [product["name"] for product in shop[0]]

    def test_a_catalogue_that_is_there_is_left_alone(self, tmp_path: Path) -> None:
        before = [file.stat().st_mtime_ns for file in generate_catalogue(tmp_path / "shop", SETTINGS)]
        assert [file.stat().st_mtime_ns for file in generate_catalogue(tmp_path / "shop", SETTINGS)] == before

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "shop").mkdir()
        assert len(make(tmp_path)[0]) == 200

    def test_another_catalogue_is_never_overwritten(self, tmp_path: Path) -> None:
        generate_catalogue(tmp_path / "shop", SETTINGS)
        with pytest.raises(ValueError, match="made with num_products 200 instead of 201"):
            generate_catalogue(tmp_path / "shop", ShopSettings(num_products=201, seed=5))

    def test_files_of_others_are_never_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "items_shuffle.json").write_text("[]")
        message = r"folder must be free for a catalogue, but .*shop has no readable generated\.json"
        with pytest.raises(ValueError, match=message):
            generate_catalogue(tmp_path / "shop", SETTINGS)

    def test_nothing_is_left_behind_when_it_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full_disk(text: str) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr("gigpo_lightning.environments.webshop.offline.generator.json.dumps", full_disk)
        with pytest.raises(OSError, match="no space"):
            generate_catalogue(tmp_path / "shop", SETTINGS)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "value"), [("num_products", 0), ("num_kinds", 27), ("twins", 1.5), ("attributes", 9), ("seed", -1)]
    )
    def test_a_number_out_of_its_range_is_named(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"{name} must be in \[.*\], got {value}"):
            ShopSettings(**{name: value})
