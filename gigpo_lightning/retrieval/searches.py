"""Searches that a server carries out in threads, and gives up when nobody waits for them any more."""

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gigpo_lightning.errors import RunError
from gigpo_lightning.retrieval.base import Passage, Retriever
from gigpo_lightning.retrieval.messages import write_answer

_AT_ONCE = 64
"""Queries between two looks at whether anybody still waits."""


class Searches:
    """Asks a retriever in threads, as many searches at the same time; more wait for their turn."""

    def __init__(self, retriever: Retriever, threads: int) -> None:
        self._retriever = retriever
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="retriever")
        self._lock = threading.Lock()
        self._running = 0

    @property
    def busy(self) -> bool:
        """Whether a thread is searching, for somebody or for nobody any more."""
        with self._lock:
            return self._running > 0

    async def answer(self, queries: Sequence[str], top_k: int, *, scores: bool, seconds: float) -> bytes:
        """The answer's JSON. Cancelled, the search ends at its next look, or never begins.

        It may take so many ``seconds``, the wait for its turn included.

        Raises:
            RunError: If it takes longer, or the retriever cannot go on.
        """
        given_up = threading.Event()
        try:
            async with asyncio.timeout(seconds) as time_limit:
                return await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._search, queries, top_k, scores, given_up
                )
        except TimeoutError as error:
            if not time_limit.expired():
                raise
            raise RunError(f"a request must be answered within {seconds:g} s, but is not; ask for less") from error
        finally:
            given_up.set()

    def end(self) -> None:
        """Begin no more searches."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _search(self, queries: Sequence[str], top_k: int, scores: bool, given_up: threading.Event) -> bytes:
        with self._lock:
            self._running += 1
        try:
            passages: list[list[Passage]] = []
            for start in range(0, len(queries), _AT_ONCE):
                if given_up.is_set():
                    return b""
                passages += self._retriever.search(queries[start : start + _AT_ONCE], top_k)
            return json.dumps(write_answer(passages, scores=scores)).encode()
        finally:
            with self._lock:
                self._running -= 1
