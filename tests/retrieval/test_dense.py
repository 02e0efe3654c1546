import copy
import hashlib
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gigpo_lightning.retrieval import DenseRetriever, Retriever, SentenceEncoder

DIMENSIONS = 64
TEXTS = ["red apple", "green pear", "blue car", "fast red car", "slow green train"]


class WordEncoder:
    """A vector a text: its words' directions, summed up; of length 1."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.asked: list[list[str]] = []

    def encode(self, sentences: list[str]) -> np.ndarray:
        self.asked.append(sentences)
        vectors = np.stack([sum(self._direction(word) for word in text.split()) for text in sentences])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _direction(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).standard_normal(self.dimensions)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str]:
    """A real FAISS index and its corpus."""
    faiss = pytest.importorskip("faiss", reason="needs the extra 'dense'")
    folder = tmp_path_factory.mktemp("dense")
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(WordEncoder().encode(TEXTS).astype(np.float32))
    faiss.write_index(index, str(folder / "flat.index"))
    lines = [json.dumps({"id": f"p{row}", "contents": f'"{row}"\n{text}'}) for row, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    return str(folder / "flat.index"), str(folder / "corpus.jsonl")


def test_passages_are_ranked_by_their_inner_product(files) -> None:
    retriever = DenseRetriever(*files, WordEncoder(), query_prefix="")
    queries = ["red car", "green"]
    found = retriever.search(queries, 3)
    products = WordEncoder().encode(queries) @ WordEncoder().encode(TEXTS).T
    for passages, product in zip(found, products, strict=True):
        assert [passage.text for passage in passages] == [TEXTS[row] for row in np.argsort(-product)[:3]]
        np.testing.assert_allclose([passage.score for passage in passages], np.sort(product)[::-1][:3], rtol=1e-5)
    assert found[0][0].id == "p3"


def test_it_is_a_retriever(files) -> None:
    assert isinstance(DenseRetriever(*files, WordEncoder()), Retriever)


def test_all_queries_are_encoded_at_once_with_their_prefix(files) -> None:
    encoder = WordEncoder()
    DenseRetriever(*files, encoder).search(["red", "car"], 1)
    assert encoder.asked == [["query: red", "query: car"]]


def test_more_passages_than_there_are_give_all_of_them(files) -> None:
    [found] = DenseRetriever(*files, WordEncoder()).search(["red"], 100)
    assert len(found) == len(TEXTS)


def test_an_approximate_index_may_find_fewer(files, tmp_path) -> None:
    faiss = pytest.importorskip("faiss")
    vectors = WordEncoder().encode(TEXTS).astype(np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIMENSIONS), DIMENSIONS, len(TEXTS), faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = 1
    faiss.write_index(index, str(tmp_path / "ivf.index"))
    retriever = DenseRetriever(str(tmp_path / "ivf.index"), files[1], WordEncoder(), query_prefix="")
    [found] = retriever.search(["blue car"], 5)
    assert [passage.text for passage in found] == ["blue car"]


def test_no_query_asks_nobody(files) -> None:
    encoder = WordEncoder()
    assert DenseRetriever(*files, encoder).search([], 3) == []
    assert encoder.asked == []


def test_an_encoder_of_another_size_is_refused(files) -> None:
    with pytest.raises(ValueError, match=r"encoder must give vectors of 64 numbers.* got .32"):
        DenseRetriever(*files, WordEncoder(32)).search(["red"], 1)


def test_a_corpus_of_another_length_is_refused(files, tmp_path) -> None:
    (tmp_path / "short.jsonl").write_text('{"contents": "a"}\n')
    with pytest.raises(ValueError, match=r"belong together.* 5 vectors and .*short\.jsonl 1 lines"):
        DenseRetriever(files[0], str(tmp_path / "short.jsonl"), WordEncoder()).search(["red"], 1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_file_is_refused_at_once(files, number) -> None:
    paths = list(files)
    paths[number] = "/no/such"
    with pytest.raises(ValueError, match=f"{('index', 'corpus')[number]}_path must be a file, got '/no/such'"):
        DenseRetriever(*paths, WordEncoder())


def test_a_deep_copy_is_the_object_itself_and_a_pickled_one_finds_the_same(files) -> None:
    retriever = DenseRetriever(*files, WordEncoder())
    found = retriever.search(["red car"], 3)
    assert copy.deepcopy(retriever) is retriever
    pickled = pickle.dumps(retriever)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).search(["red car"], 3) == found


def test_threads_may_search_at_once(files) -> None:
    retriever = DenseRetriever(*files, WordEncoder())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: retriever.search([text], 1), TEXTS * 4))
    assert found == [retriever.search([text], 1) for text in TEXTS * 4]


@pytest.mark.parametrize(
    ("package", "search"),
    [
        ("faiss", lambda files: DenseRetriever(*files, WordEncoder()).search(["red"], 1)),
        ("sentence_transformers", lambda files: SentenceEncoder("no/model").encode(["red"])),
    ],
)
def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch, package, search) -> None:
    (tmp_path / "index").touch()
    monkeypatch.setitem(sys.modules, package, None)  # what import takes for "not there"
    with pytest.raises(ImportError, match=r"extra 'dense'.*pip install faiss-cpu sentence-transformers"):
        search([str(tmp_path / "index")] * 2)
