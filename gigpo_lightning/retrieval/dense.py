"""Searching passages by their meaning: embeddings of a text encoder in a FAISS index."""

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gigpo_lightning.errors import check_count
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.corpus import Corpus


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors, as a ``sentence_transformers.SentenceTransformer`` does."""

    def encode(self, sentences: list[str]) -> Any:
        """Embed texts: ``(texts, dimensions)``."""


class SentenceEncoder:
    """A sentence-transformers model, loaded when it first encodes; its vectors have length 1.

    Args:
        model: Hub name or folder, such as ``intfloat/e5-base-v2``.
        device: Such as ``cuda`` or ``cpu``; default: the library's choice.
        half_precision: Compute with 16 bits.
        batch_size: Texts encoded at the same time.
    """

    def __init__(
        self, model: str, *, device: str | None = None, half_precision: bool = False, batch_size: int = 64
    ) -> None:
        check_count("batch_size", batch_size)
        self.model = model
        self.device = device
        self.half_precision = half_precision
        self.batch_size = batch_size
        self._loaded: Any = None

    def encode(self, sentences: list[str]) -> Any:
        """Embed texts: ``(texts, dimensions)``."""
        if self._loaded is None:
            library = import_dense("sentence_transformers")
            self._loaded = library.SentenceTransformer(self.model, device=self.device)
            if self.half_precision:
                self._loaded.half()
        return self._loaded.encode(
            sentences, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_loaded": None}


class DenseRetriever(PerProcess):
    """Ranks passages by the inner product of their vectors with the query's, such as E5's over wiki-18.

    Index, passages and model are loaded when first searched. A pickled one is its arguments; a deep copy is the object
    itself. Wiki-18's flat index takes 62 GiB: serve it once with ``gigpo-retriever`` and ask with ``HttpRetriever``.

    Args:
        index_path: A FAISS index; its row n is the passage in the corpus' line n.
        corpus_path: A ``.jsonl`` or ``.jsonl.gz`` file of documents; a plain one is mapped, not read into memory.
        encoder: What the index was made with: its class and arguments.
        query_prefix: Put before every query; E5 wants ``"query: "``.

    Raises:
        ValueError: If there is no such file.
    """

    def __init__(self, index_path: str, corpus_path: str, encoder: Encoder, *, query_prefix: str = "query: ") -> None:
        for name, path in (("index_path", index_path), ("corpus_path", corpus_path)):
            if not Path(path).is_file():
                raise ValueError(f"{name} must be a file, got {path!r}")
        self.index_path = str(Path(index_path).absolute())
        self.corpus_path = str(Path(corpus_path).absolute())
        self.encoder = encoder
        self.query_prefix = query_prefix
        self._start()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Passages of each query, best first; all queries are encoded and looked up together.

        Raises:
            ImportError: If a package is missing; the message names the extra.
            ValueError: If index, corpus and encoder do not belong together, or ``top_k`` < 1.
        """
        check_count("top_k", top_k)
        if not queries:
            return []
        corpus, index = self._load()
        with self._lock:  # tokenizers are not made for several threads
            encoded = self.encoder.encode([self.query_prefix + query for query in queries])
        vectors = np.ascontiguousarray(encoded, dtype=np.float32)
        if vectors.shape != (len(queries), index.d):
            raise ValueError(
                f"encoder must give vectors of {index.d} numbers, as {self.index_path} holds, got {vectors.shape[1:]}"
            )
        scores, rows = index.search(vectors, top_k)
        return [
            # FAISS fills up with -1 where it finds fewer
            [corpus.passage(row, score) for row, score in zip(*found, strict=True) if row >= 0]
            for found in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _start(self) -> None:
        """Make the attributes of this process."""
        self._lock = threading.Lock()
        self._loaded: tuple[Corpus, Any] | None = None

    def _load(self) -> tuple[Corpus, Any]:
        with self._lock:
            if self._loaded is None:
                index = import_dense("faiss").read_index(self.index_path)
                corpus = Corpus(self.corpus_path)
                if index.ntotal != len(corpus):
                    raise ValueError(
                        f"index_path and corpus_path must belong together, but {self.index_path} has {index.ntotal} "
                        f"vectors and {self.corpus_path} {len(corpus)} lines"
                    )
                self._loaded = corpus, index
            return self._loaded


def import_dense(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"DenseRetriever needs the packages of the extra 'dense' ({error}): "
            "pip install faiss-cpu sentence-transformers"
        ) from error
