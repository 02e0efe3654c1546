"""What a retriever is: queries in, the best passages of each out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of text that a retriever has found.

    Attributes:
        id: The corpus's own; empty where a server sends none.
        title: Without quotation marks around it; empty where the passage has none.
        text: What follows the title.
        score: The higher, the better, on the retriever's own scale; 0 where a server sends none.
    """

    id: str
    title: str
    text: str
    score: float


@runtime_checkable
class Retriever(Protocol):
    """Finds passages by words or by meaning; picklable, and safe to be asked by several threads at once."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Passages of each query, best first."""
