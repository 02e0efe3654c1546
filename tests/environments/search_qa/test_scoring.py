"""Exact match against a table, and what must hold for all answers."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.search_qa import exact_match, normalize_answer

# Each line by hand: lower case, then punctuation, then articles, then white space.
NORMALIZED = [
    ("Paris", "paris"),
    ("  The   Beatles ", "beatles"),
    ("A.", ""),  # its point goes first, then it is an article
    ("the the", ""),
    ("a-ha", "aha"),  # no article: its hyphen has gone already
    ("an apple a day", "apple day"),
    ("theatre", "theatre"),
    ("U.S.A.", "usa"),
    ("Sir Arthur Conan Doyle", "sir arthur conan doyle"),
    ("the Queen's gaoler", "queens gaoler"),
    ("«Aïda»", "«aïda»"),  # only ASCII punctuation is taken away
    ("Finnmark county,", "finnmark county"),
    ("1,234.5", "12345"),
    ("Café\tÉcole\n", "café école"),
    ("_a_", ""),  # the underscore is punctuation
    ("rock\N{EN DASH}a\N{EN DASH}hula", "rock\N{EN DASH} \N{EN DASH}hula"),  # an article leaves a space
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), NORMALIZED)
def test_an_answer_is_normalized_as_by_hand(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@given(st.text())
def test_what_is_normalized_has_no_upper_case_punctuation_or_article(text: str) -> None:
    words = normalize_answer(text).split()
    assert not set("".join(words)) & set(string.punctuation)
    assert not {"a", "an", "the"} & set(words)


@given(st.text())
def test_an_answer_matches_itself_whatever_is_around_it(text: str) -> None:
    assert exact_match(f"  the {text}. ", [text]) == (normalize_answer(text) != "")


def test_any_of_the_golden_answers_will_do() -> None:
    assert exact_match("the USA", ["America", "U.S.A."])


def test_a_part_of_an_answer_will_not_do() -> None:
    assert not exact_match("Arthur Conan Doyle", ["Sir Arthur Conan Doyle"])
    assert not exact_match("Sir Arthur Conan Doyle", ["Conan Doyle"])


def test_without_golden_answers_nothing_is_right() -> None:
    assert not exact_match("", [])


@pytest.mark.parametrize("golden", ["", "the", "The The", "!!!", " A. "])
@pytest.mark.parametrize("prediction", ["", "the", "!!!", "The The"])
def test_a_golden_answer_that_normalizes_to_nothing_is_never_matched(prediction: str, golden: str) -> None:
    assert not exact_match(prediction, [golden])


def test_beside_it_another_golden_answer_counts() -> None:
    assert exact_match("the band", ["The The", "band"])
    assert not exact_match("", ["The The", "band"])
