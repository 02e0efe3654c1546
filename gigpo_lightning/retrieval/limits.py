"""What one client may ask of a retrieval server."""

from dataclasses import dataclass

from gigpo_lightning.errors import check_count, check_range


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of each request to a retrieval server, and of its connections.

    Attributes:
        queries: Queries in a request; Search-R1's client sends those of a whole batch of episodes.
        query_characters: Length of a query.
        top_k: Passages of a query.
        passages: Passages of all queries of a request together.
        body_bytes: Size of a request's body.
        seconds: From a whole request to its answer, the wait for its turn included; and then to send the answer.
        patience: Seconds that a client may take to send a request's header, and as many for its body.
        connections: Open at the same time; with ``body_bytes`` they bound the memory that requests take.

    Raises:
        ValueError: If a number is out of range.
    """

    queries: int = 4096
    query_characters: int = 1 << 15
    top_k: int = 1000
    passages: int = 1 << 16
    body_bytes: int = 1 << 23
    seconds: float = 60.0
    patience: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        for name in ("queries", "query_characters", "top_k", "passages", "body_bytes", "connections"):
            check_count(f"limits.{name}", getattr(self, name))
        for name in ("seconds", "patience"):
            check_range(f"limits.{name}", getattr(self, name), 1e-3, 1e6, why="seconds")
