import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gigpo_lightning.retrieval import Bm25Retriever, Passage, Retriever, bm25_retriever

TEXTS = {
    "Paris": "Paris is the capital of France.",
    "Berlin": "Berlin is the capital of Germany, as Paris is of France.",
    "Apple": "A fruit that grows on trees; trees of many kinds.",
}


@pytest.fixture
def corpus_path(tmp_path) -> str:
    lines = [
        json.dumps({"id": f"p{row}", "contents": f'"{title}"\n{text}'})
        for row, (title, text) in enumerate(TEXTS.items())
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "corpus.jsonl")


def titles(found: list[list[Passage]]) -> list[list[str]]:
    return [[passage.title for passage in passages] for passages in found]


def test_passages_are_found_by_their_words_best_first(corpus_path) -> None:
    found = Bm25Retriever(corpus_path).search(["the capital of France", "growing tree"], 3)
    assert titles(found) == [["Paris", "Berlin"], ["Apple"]]
    first, second = found[0]
    assert (first.id, first.text) == ("p0", TEXTS["Paris"])
    assert first.score > second.score > 0


def test_titles_are_searched_too(corpus_path) -> None:
    assert titles(Bm25Retriever(corpus_path).search(["apple"], 3)) == [["Apple"]]


def test_no_more_passages_than_asked_for_are_found(corpus_path) -> None:
    assert titles(Bm25Retriever(corpus_path).search(["capital"], 1)) == [["Paris"]]


def test_what_shares_no_word_is_not_found(corpus_path) -> None:
    assert Bm25Retriever(corpus_path).search(["zebra", "", "?!", "the of"], 3) == [[], [], [], []]


def test_it_is_a_retriever(corpus_path) -> None:
    assert isinstance(Bm25Retriever(corpus_path), Retriever)


def test_the_numbers_of_bm25_are_used(corpus_path) -> None:
    [[one, _]] = Bm25Retriever(corpus_path).search(["Paris"], 2)
    [[other, _]] = Bm25Retriever(corpus_path, k1=2.0).search(["Paris"], 2)
    [[third, _]] = Bm25Retriever(corpus_path, b=0.0).search(["Paris"], 2)
    assert len({one.score, other.score, third.score}) == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"corpus_path": "/no/such"}, "corpus_path must be a file, got '/no/such'"),
        ({"k1": -1.0}, "k1 must be >= 0"),
        ({"b": 1.5}, r"b must be in \[0, 1\]"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(corpus_path, options, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        Bm25Retriever(**({"corpus_path": corpus_path} | options))


def test_less_than_one_passage_cannot_be_asked_for(corpus_path) -> None:
    with pytest.raises(ValueError, match="top_k must be >= 1, got 0"):
        Bm25Retriever(corpus_path).search(["Paris"], 0)


def test_a_malformed_line_is_named(corpus_path) -> None:
    with Path(corpus_path).open("a") as file:
        file.write("\nno json\n")
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 4: "):
        Bm25Retriever(corpus_path).search(["Paris"], 1)


def test_one_process_builds_one_index_of_a_file(corpus_path) -> None:
    retriever = Bm25Retriever(corpus_path)
    retriever.search(["Paris"], 1)
    built = bm25_retriever._build.cache_info().misses
    assert copy.deepcopy([retriever])[0] is retriever
    for same in (Bm25Retriever(corpus_path), pickle.loads(pickle.dumps(retriever))):
        assert same.search(["Paris"], 1) == retriever.search(["Paris"], 1)
    assert bm25_retriever._build.cache_info().misses == built


def test_threads_that_begin_at_once_build_one_index(corpus_path) -> None:
    built = bm25_retriever._build.cache_info().misses
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: Bm25Retriever(corpus_path).search(["Paris"], 2), range(32)))
    assert found == found[:1] * 32
    assert bm25_retriever._build.cache_info().misses == built + 1


def test_a_file_that_was_written_anew_is_read_anew(corpus_path) -> None:
    retriever = Bm25Retriever(corpus_path)
    retriever.search(["Paris"], 1)
    Path(corpus_path).write_text(json.dumps({"id": "new", "contents": '"London"\nOn the Thames.'}))
    assert titles(retriever.search(["Thames", "Paris"], 1)) == [["London"], []]


def test_what_is_pickled_is_its_arguments_alone(corpus_path) -> None:
    retriever = Bm25Retriever(corpus_path, k1=1.5, b=0.5)
    retriever.search(["Paris"], 1)
    pickled = pickle.dumps(retriever)
    assert len(pickled) < 1000
    assert vars(pickle.loads(pickled)) == {"corpus_path": corpus_path, "k1": 1.5, "b": 0.5}


@pytest.mark.slow
def test_real_answers_are_found_by_their_plain_questions(shared_data) -> None:
    # In a process of its own: the type checks of the tests would make four seconds of indexing twenty.
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("real_recall.py"), shared_data / "searchqa"],
        capture_output=True,
        text=True,
        check=True,
    )
    recall = json.loads(done.stdout)
    assert recall["nq"] >= 0.85
    assert recall["hotpotqa"] >= 0.65
