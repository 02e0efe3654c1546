"""A retrieval server as the command serves it, in a thread, with a retriever that a test holds up."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

from gigpo_lightning.retrieval import Passage, Retriever
from gigpo_lightning.retrieval.connected import listening
from gigpo_lightning.retrieval.limits import Limits
from gigpo_lightning.retrieval.server import make_application
from tests.retrieval.troubled_server import EchoRetriever


class HeldRetriever(EchoRetriever):
    """Counts what it searches for, and waits for permission before each search."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.searched = 0

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        self.searched += len(queries)
        self.begun.release()
        self.may_go_on.acquire(timeout=60)
        return super().search(queries, top_k)


class StuckRetriever(EchoRetriever):
    """Answers once, and then never again."""

    def __init__(self) -> None:
        super().__init__()
        self._answered = False

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        if self._answered:
            logging.warning("stuck")
            time.sleep(1000)
        self._answered = True
        return super().search(queries, top_k)


class BoundedServer:
    """Listens on loopback until it is closed."""

    def __init__(self, retriever: Retriever | None = None, *, threads: int = 8, **limits: float) -> None:
        self._bounds = Limits(**limits)
        self._application = make_application(
            retriever or EchoRetriever(), top_k=1, threads=threads, limits=self._bounds
        )
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with listening(self._application, "127.0.0.1", 0, self._bounds) as self.port:
            self._ready.set()
            await self._end.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
