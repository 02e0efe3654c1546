"""Searching the passages of a file by their words, in this process."""

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.bm25 import Bm25Index
from gigpo_lightning.retrieval.corpus import Corpus

_CORPORA_KEPT = 4

_loading = threading.Lock()


class Bm25Retriever(PerProcess):
    """Ranks passages by BM25 over title and text, as Lucene does.

    The index is built when it is first searched, seconds for some ten thousand passages, and kept: every retriever of
    the same file and numbers in this process shares it. A pickled one is its arguments, and the process that it comes
    to builds its own index. For millions of passages, ask a server with ``HttpRetriever`` instead.

    Args:
        corpus_path: A ``.jsonl`` or ``.jsonl.gz`` file, a document a line, as ``Corpus`` reads it.
        k1: How soon further occurrences of a word stop to matter; Anserini's default.
        b: How much a passage's length counts against it; Anserini's default.

    Raises:
        ValueError: If there is no such file, or a number is out of range.
    """

    def __init__(self, corpus_path: str, *, k1: float = 0.9, b: float = 0.4) -> None:
        if not Path(corpus_path).is_file():
            raise ValueError(f"corpus_path must be a file, got {corpus_path!r}")
        check_range("k1", k1)
        check_range("b", b, 0.0, 1.0)
        self.corpus_path = str(Path(corpus_path).absolute())
        self.k1 = k1
        self.b = b

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Passages of each query that share a word with it, best first; of equal ones the file's first.

        Raises:
            ValueError: If a line of the file is no document; the message names file and line. Or if ``top_k`` < 1.
        """
        check_count("top_k", top_k)
        corpus, index = self._load()
        found = index.search_many(queries, top_k)
        return [[corpus.passage(row, score) for row, score in best] for best in found]

    def _load(self) -> tuple[Corpus, Bm25Index]:
        status = Path(self.corpus_path).stat()
        with _loading:  # threads that search at once build one index
            return _build(self.corpus_path, status.st_size, status.st_mtime_ns, self.k1, self.b)


@lru_cache(maxsize=_CORPORA_KEPT)
def _build(path: str, size: int, modified: int, k1: float, b: float) -> tuple[Corpus, Bm25Index]:
    """Build the index of a file; size and time of change say which of its contents."""
    corpus = Corpus(path)
    return corpus, Bm25Index(corpus.contents(), k1=k1, b=b)
