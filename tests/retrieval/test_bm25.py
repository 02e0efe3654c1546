"""The index ranks as Lucene does: by hand, against an obvious loop, and against recorded rankings."""

import gzip
import json
import math
import pickle
import random
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.retrieval.analyzer import lucene_tokens
from gigpo_lightning.retrieval.bm25 import Bm25Index
from gigpo_lightning.retrieval.postings import stored_lengths
from tests.retrieval.shop_texts import shop_text

WORDS = ("red", "blue", "shoes", "hat", "wool", "the", "x1")
texts_of_words = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
corpora = st.lists(texts_of_words, min_size=1, max_size=30)


def test_scores_of_three_texts_by_hand() -> None:
    index = Bm25Index(["red shoes", "blue shoes of wool and blue silk", "a hat"])
    # Lengths 2, 5, 1 without stop words; their mean is 8 / 3.
    shoes = math.log(1 + 1.5 / 2.5)
    blue = math.log(1 + 2.5 / 1.5)
    longest = 0.9 * (0.6 + 0.4 * 5 / (8 / 3))
    first = shoes / (1 + 0.9 * (0.6 + 0.4 * 2 / (8 / 3)))
    second = shoes / (1 + longest) + blue * 2 / (2 + longest)
    rows, scores = zip(*index.search("Blue shoe", 3), strict=True)
    assert rows == (1, 0)
    assert scores == pytest.approx((second, first), abs=1e-4)


def test_a_byte_keeps_lengths_as_lucene_does() -> None:
    assert stored_lengths(np.arange(41)).tolist() == list(range(41))
    assert stored_lengths(np.array([41, 57, 100, 500, 1_000_000])).tolist() == [40, 56, 96, 472, 983_064]


def test_long_texts_of_one_stored_length_score_the_same() -> None:
    index = Bm25Index([" ".join(["red"] + ["hat"] * (length - 1)) for length in (96, 103, 104)])
    (_, first), (_, second), (_, third) = index.search("red", 3)
    assert first == second > third


@given(corpora, texts_of_words, st.integers(1, 12), st.sampled_from([(0.9, 0.4), (0.0, 0.4), (1.5, 0.0), (1.2, 1.0)]))
def test_it_ranks_as_an_obvious_loop_does(
    texts: list[str], query: str, k: int, parameters: tuple[float, float]
) -> None:
    k1, b = parameters
    found = Bm25Index(texts, k1=k1, b=b).search(query, k)
    assert found == _ranked_by_loop(texts, query, k1, b)[:k]


@given(corpora, texts_of_words, st.randoms(use_true_random=False))
def test_the_order_of_texts_and_words_changes_no_score(texts: list[str], query: str, chance: random.Random) -> None:
    order = chance.sample(range(len(texts)), len(texts))
    words = query.split()
    chance.shuffle(words)
    scores = dict(Bm25Index(texts).search(query, len(texts)))
    shuffled = dict(Bm25Index([texts[row] for row in order]).search(" ".join(words), len(texts)))
    assert {order[row]: score for row, score in shuffled.items()} == scores


def test_fewer_results_are_the_first_of_more() -> None:
    chance = random.Random(0)
    vocabulary = [f"w{number}" for number in range(300)]
    frequencies = [1 / (1 + number) for number in range(300)]
    index = Bm25Index(" ".join(chance.choices(vocabulary, frequencies, k=12)) for _ in range(12_000))
    for _ in range(40):
        query = " ".join(chance.choices(vocabulary, frequencies, k=chance.randint(1, 8)))
        everything = index.search(query, len(index))
        assert [index.search(query, k) for k in (1, 10, 50, 3000)] == [everything[:k] for k in (1, 10, 50, 3000)]


def test_equal_scores_come_in_the_order_of_their_ids() -> None:
    texts = ["red hat", "blue", "red hat", "red hat"]
    assert [row for row, _ in Bm25Index(texts).search("hat", 3)] == [0, 2, 3]
    assert [row for row, _ in Bm25Index(texts, ["10", "1", "9", "1a"]).search("hat", 3)] == [0, 3, 2]
    assert [row for row, _ in Bm25Index(texts, ["10", "1", "9", "1a"]).search("hat", 1)] == [0]


def test_a_repeated_word_counts_as_often() -> None:
    index = Bm25Index(["red shoes", "blue hat", "wool"])
    ((_, once),) = index.search("red", 3)
    ((_, thrice),) = index.search("red red reds", 3)
    assert thrice == pytest.approx(3 * once, abs=3e-4)


@pytest.mark.parametrize("query", ["", "  ", "the of and", "unheard", "!?"])
def test_a_query_without_known_words_finds_nothing(query: str) -> None:
    assert Bm25Index(["red shoes", "the hat"]).search(query, 5) == []


def test_texts_without_words_are_never_found_and_change_nothing() -> None:
    texts = ["red shoes", "blue red hat", "shoes"]
    assert Bm25Index([*texts, "", "the of", "!"]).search("red shoes", 9) == Bm25Index(texts).search("red shoes", 9)
    assert Bm25Index(["", "the"]).search("red", 1) == []


def test_many_queries_are_answered_one_by_one() -> None:
    index = Bm25Index(["red shoes", "blue hat", "red hat"])
    queries = ["red", "hat", "red", ""]
    answers = index.search_many(iter(queries), 2)
    assert answers == [index.search(query, 2) for query in queries]
    answers[0].clear()
    assert answers[2]


def test_texts_are_let_go_while_they_are_read() -> None:
    class Text(str):
        """A string that can be watched."""

    alive: set[int] = set()
    most = 0

    def stream() -> Iterator[str]:
        nonlocal most
        for number in range(100):
            text = Text(f"red hat {number}")
            alive.add(number)
            weakref.finalize(text, alive.discard, number)
            most = max(most, len(alive))
            yield text
            del text

    assert len(Bm25Index(stream())) == 100
    assert most <= 3


def test_blocks_of_texts_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["red shoes", "blue hat blue", "", "red", "hat of wool", "wool wool red", "blue red"]
    whole = Bm25Index(texts)
    monkeypatch.setattr("gigpo_lightning.retrieval.postings._TEXTS_AT_ONCE", 2)
    monkeypatch.setattr("gigpo_lightning.retrieval.postings._WORDS_KEPT", 2)
    parts = Bm25Index(texts)
    for query in ("red", "blue hat", "wool red shoes"):
        assert parts.search(query, 9) == whole.search(query, 9)


def test_a_pickled_copy_and_threads_answer_alike() -> None:
    chance = random.Random(1)
    index = Bm25Index([" ".join(chance.choices(WORDS, k=8)) for _ in range(500)])
    queries = [" ".join(chance.choices(WORDS, k=3)) for _ in range(60)]
    expected = [index.search(query, 20) for query in queries]
    copy = pickle.loads(pickle.dumps(index))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: copy.search(query, 20), queries)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "texts must hold at least one text"),
        ({"texts": ["a", "b"], "ids": ["1"]}, "got 1 for 2 texts"),
        ({"texts": ["a"], "k1": -0.1}, "k1 must be >= 0, got -0.1"),
        ({"texts": ["a"], "k1": math.inf}, "k1 must be >= 0 and finite, got inf"),
        ({"texts": ["a"], "b": 1.5}, r"b must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bm25Index(**arguments)  # type: ignore[arg-type]


def test_no_results_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="k must be positive, got 0"):
        Bm25Index(["red"]).search("red", 0)


def test_rankings_are_those_of_lucene_over_the_real_shop(shared_data: Path) -> None:
    products = json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text())
    asins = [product["asin"] for product in products]
    index = Bm25Index(map(shop_text, products), asins)
    with gzip.open(shared_data / "webshop" / "lucene_reference_top50.jsonl.gz", "rt") as file:
        references = [json.loads(line) for line in file]
    same_order = 0
    for reference in references:
        expected = dict(reference["hits"])
        found = [(asins[row], score) for row, score in index.search(reference["q"], 50)]
        same_order += [asin for asin, _ in found] == list(expected)
        assert all(score == pytest.approx(expected.get(asin, score), abs=1e-3) for asin, score in found)
    assert same_order / len(references) >= 0.999


def _ranked_by_loop(texts: Sequence[str], query: str, k1: float, b: float) -> list[tuple[int, float]]:
    """Every matching text, best first: Lucene's formula in single precision, term by term."""
    single = np.float32
    counts = [Counter(lucene_tokens(text)) for text in texts]
    lengths = [count.total() for count in counts]
    stored = stored_lengths(np.array(lengths))
    with_terms = sum(length > 0 for length in lengths)
    scores: dict[int, float] = {}
    for term, times in Counter(lucene_tokens(query)).items():
        holders = [row for row, count in enumerate(counts) if term in count]
        for row in holders:
            rarity = single(math.log(1 + (with_terms - len(holders) + 0.5) / (len(holders) + 0.5)))
            longer = single(b) * single(stored[row]) / single(sum(lengths) / with_terms)
            norm = single(k1) * (single(1) - single(b) + longer)
            share = rarity / (single(1) + counts[row][term] * (single(1) / norm)) if k1 else single(0)
            scores[row] = scores.get(row, 0.0) + float((rarity - share) * single(times))
    order = sorted(scores, key=lambda row: (-single(scores[row]), row))
    return [(row, float(np.round(scores[row], 4))) for row in order]
