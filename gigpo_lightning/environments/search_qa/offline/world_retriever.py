"""The invented world's own search engine."""

from collections.abc import Sequence
from pathlib import Path

from gigpo_lightning.environments.search_qa.offline.generator import world_corpus
from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.bm25_retriever import Bm25Retriever


class WorldRetriever:
    """BM25 over the corpus of an invented world, which need not be there before the first search.

    Args:
        data_dir: Where ``SearchQATasks`` has its world made.
    """

    def __init__(self, data_dir: str) -> None:
        self.data_dir = str(Path(data_dir).absolute())

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Passages of each query that share a word with it, best first.

        Raises:
            ValueError: If there is no world yet.
        """
        return Bm25Retriever(str(world_corpus(self.data_dir))).search(queries, top_k)
