"""Pages and instructions, read as a shopper reads them."""

import gzip
import json
from pathlib import Path

import pytest

from gigpo_lightning.environments.webshop.reading import (
    Offer,
    asked_options,
    highest_price,
    price_limit,
    read_page,
    wanted_value,
    wanted_words,
)
from tests.prompts.shop_pages import (
    FEATURES,
    INDEX,
    INSTRUCTION,
    ITEM,
    ON_FEATURES,
    ON_INDEX,
    ON_ITEM,
    ON_RESULTS,
    RESULTS,
)


def test_the_page_with_the_search_bar() -> None:
    assert read_page(INDEX, ON_INDEX).kind == "index"


def test_a_page_of_results() -> None:
    page = read_page(RESULTS, ON_RESULTS)
    assert (page.kind, page.number) == ("results", 1)
    assert page.offers == (
        Offer(asin="B000000001", title="Alder Slim Fit Rain Jackets", price_tag="$19.99"),
        Offer(asin="B000000002", title="Elvet's Daily Wear Slim Fit Rain Jackets", price_tag="$29.99 to $45.5"),
    )


def test_a_later_page_has_a_button_more() -> None:
    later = RESULTS.replace("Page 1", "Page 2").replace("'Next >'", "'< Prev' [SEP] 'Next >'")
    page = read_page(later, ("click[back to search]", "click[< prev]", "click[next >]", *ON_RESULTS[2:]))
    assert page.number == 2
    assert page.offers == read_page(RESULTS, ON_RESULTS).offers


def test_an_item() -> None:
    page = read_page(ITEM, ON_ITEM)
    assert page.kind == "item"
    assert page.options == {"color": ("blue", "red"), "size": ("small", "x-large")}
    assert (page.title, page.price_tag) == ("Elvet's Daily Wear Slim Fit Rain Jackets", "$29.99 to $45.5")


def test_what_is_told_about_an_item() -> None:
    assert read_page(FEATURES, ON_FEATURES).kind == "text"


@pytest.mark.parametrize(
    "observation", ["", "'", "''", "' [SEP] '", "'Price: '", "'< Prev'", "'Price: ' [SEP] '< Prev'"]
)
@pytest.mark.parametrize("offered", [(), ON_ITEM, ON_RESULTS])
def test_no_page_is_too_strange_to_be_read(observation: str, offered: tuple[str, ...]) -> None:
    assert read_page(observation, offered).offers == ()


def test_pages_of_the_original_are_read(shared_data: Path) -> None:
    products = {
        product["asin"]: product
        for product in json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text())
    }
    with gzip.open(shared_data / "webshop" / "golden_pages.jsonl.gz", "rt") as lines:
        pages = [json.loads(line) for line in lines]
    results = [read_page(page["obs"], ()) for page in pages if page["key"][0] not in ("item", "sub")]
    results = [page for page in results if page.kind == "results"]
    assert len(results) > 300
    for page in results:
        for offer in page.offers:
            assert offer.title.split() == products[offer.asin]["name"].split()
            assert offer.price_tag.startswith("$")


def test_the_highest_price_of_a_tag_counts() -> None:
    assert [highest_price(tag) for tag in ("$8.99 to $25.99", "$1,234.5", "")] == [25.99, 1234.5, 0.0]


def test_the_limit_of_an_instruction() -> None:
    assert price_limit(INSTRUCTION) == 50.0
    assert price_limit("Find me hats") is None


def test_words_that_say_nothing_are_not_wanted() -> None:
    said = "i am looking for a 50 inch lamp, and price lower than 50.00 dollars"
    assert wanted_words(said) == ("50", "inch", "lamp")


def test_a_word_said_twice_is_wanted_once() -> None:
    assert wanted_words("Find me blue hats with color: blue") == ("blue", "hats", "color")


@pytest.mark.parametrize(
    ("instruction", "values", "wanted"),
    [
        ("hats with color: blue, and size: small", ("blue", "navy blue"), "blue"),
        ("hats with color: navy blue", ("blue", "navy blue"), "navy blue"),
        ("hats with color: navy blue, and price lower than 40.00 dollars", ("blue",), ""),
        ("a navy blue hat", ("blue", "navy blue"), "navy blue"),
        ("a small hat", ("blue", "navy blue"), ""),
        ("size 50 lamp, and price lower than 40.00 dollars", ("40", "50"), "50"),
        ("anything", ("-",), ""),
    ],
)
def test_the_value_of_an_option_that_is_asked_for(instruction: str, values: tuple[str, ...], wanted: str) -> None:
    assert wanted_value(instruction, "color", values) == wanted


def test_the_options_that_an_instruction_asks_for() -> None:
    assert asked_options(INSTRUCTION) == ("color", "size")
    assert asked_options(
        "Find me hats with wool, felt for rain with fit type: men, and price lower than 9.00 dollars"
    ) == ("fit type",)
    assert asked_options("Find me slim fit hats with wool") == ()
