"""Pages are the original's, piece by piece."""

import gzip
import json
from collections import Counter
from dataclasses import replace

import pytest

from gigpo_lightning.environments.webshop import pages
from gigpo_lightning.environments.webshop.pages import done_page, item_page, results_page, sub_page


def test_a_page_of_results_lists_id_title_and_price(shop):
    lamps = [shop["B000000003"], shop["B000000004"]]
    page = results_page(lamps, 1, 12)
    assert page.text == (
        "'Back to Search' [SEP] 'Page 1 (Total results: 12)' [SEP] 'Next >' [SEP] 'B000000003' [SEP] 'Steel Lamp' "
        "[SEP] '$100.0' [SEP] 'B000000004' [SEP] 'Brass Lamp' [SEP] '$995.0'"
    )
    assert page.clickables == ("back to search", "next >", "b000000003", "b000000004")


def test_later_pages_have_a_way_back_and_may_be_empty():
    page = results_page([], 6, 50)
    assert page.text == "'Back to Search' [SEP] 'Page 6 (Total results: 50)' [SEP] '< Prev' [SEP] 'Next >'"
    assert page.clickables == ("back to search", "< prev", "next >")


def test_a_products_page_lists_its_options_before_its_title(shop):
    page = item_page(shop["B000000001"])
    assert page.text == (
        "'Back to Search' [SEP] '< Prev' [SEP] 'size' [SEP] 'small' [SEP] 'large' [SEP] 'color' [SEP] 'red | white' "
        "[SEP] 'blue' [SEP] 'Red Oak Chair' [SEP] 'Price: $25.5' [SEP] 'Rating: N.A.' [SEP] 'Description' [SEP] "
        "'Features' [SEP] 'Reviews' [SEP] 'Buy Now'"
    )
    buttons = ("back to search", "< prev", "description", "features", "reviews", "buy now")
    assert page.clickables == (*buttons, "small", "large", "red | white", "blue")


def test_attributes_are_shown_where_they_are_asked_for(shop):
    assert "'Reviews' [SEP] 'Attributes' [SEP] 'Buy Now'" in item_page(shop["B000000001"], show_attributes=True).text
    assert sub_page(shop["B000000001"], pages.ATTRIBUTES).text == (
        "'Back to Search' [SEP] '< Prev' [SEP] 'solid wood' [SEP] 'easy clean' [SEP] 'garden' [SEP] 'chairs' [SEP] "
        "'Patio › Furniture › Chairs'"
    )


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        (pages.DESCRIPTION, ["'A chair of red oak.'"]),
        (pages.FEATURES, ["'good'", "'cheap'"]),
        (pages.REVIEWS, []),
    ],
)
def test_a_sub_page_has_its_text_and_a_way_back(shop, name, pieces):
    page = sub_page(shop["B000000001"], name)
    assert page.text == " [SEP] ".join(["'Back to Search'", "'< Prev'", *pieces])
    assert page.clickables == ("back to search", "< prev")


def test_options_of_one_value_are_one_clickable(shop):
    twins = replace(shop["B000000001"], options={"seat": ("red", "description"), "legs": ("red",)})
    page = item_page(twins)
    assert page.text.count("'red'") == 2
    assert page.clickables == ("back to search", "< prev", "description", "features", "reviews", "buy now", "red")


# A browser takes white space with a line break for nothing, without one for a blank; its text is stripped all the same.
@pytest.mark.parametrize(
    ("bullets", "pieces"),
    [(("",), ["''"]), ((" ",), ["''"]), (("\n",), []), (("\xa0\n",), ["''"]), ((" a \n b ",), ["'a \n b'"]), ((), [])],
)
def test_white_space_is_what_a_browser_makes_of_it(shop, bullets, pieces):
    page = sub_page(replace(shop["B000000001"], bullets=bullets), pages.FEATURES)
    assert page.text.split(" [SEP] ")[2:] == pieces


@pytest.mark.parametrize("description", ["", " ", "\n "])
def test_an_empty_description_is_no_piece(shop, description):
    page = sub_page(replace(shop["B000000001"], description=description), pages.DESCRIPTION)
    assert page.text == "'Back to Search' [SEP] '< Prev'"


def test_an_empty_title_is_no_piece_and_a_blank_one_an_empty_piece(shop):
    lamp = shop["B000000003"]
    assert results_page([replace(lamp, title="")], 1, 1).text.endswith("'B000000003' [SEP] '$100.0'")
    assert results_page([replace(lamp, title=" ")], 1, 1).text.endswith("'B000000003' [SEP] '' [SEP] '$100.0'")


def test_a_purchase_ends_with_its_score_and_nothing_to_click():
    assert done_page(0.75).text.endswith("[SEP] '0.75'")
    assert done_page(0.75).clickables == ()


def test_every_recorded_page_of_the_original_is_reproduced(thousand, shared_data):
    with gzip.open(shared_data / "webshop" / "golden_pages.jsonl.gz", "rt") as lines:
        recorded = [json.loads(line) for line in lines]
    counts: Counter[tuple[str, bool]] = Counter()
    for line in recorded:
        kind, *place = line["key"]
        if kind == "item":
            text = item_page(thousand[place[0]]).text
        elif kind == "sub":
            text = sub_page(thousand[place[0]], place[1].capitalize()).text
        else:
            query, number = place
            found = [thousand[asin] for asin, _ in thousand.search(query, 50)]
            text = results_page(found[(number - 1) * 10 : number * 10], number, len(found)).text
        counts[kind, text == line["obs"]] += 1
    assert counts == {("results", True): 365, ("item", True): 54, ("sub", True): 4}
