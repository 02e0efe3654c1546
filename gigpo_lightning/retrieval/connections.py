"""A process's connections to retrieval servers, opened when first needed."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp

from gigpo_lightning.http_thread import HttpThread

_T = TypeVar("_T")


class Connections:
    """Runs HTTP calls for any number of threads; each process opens its connections at its first call.

    Args:
        max_requests: Requests under way at the same time; more wait for their turn.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._lock = threading.Lock()
        self._http: HttpThread | None = None
        self._session: aiohttp.ClientSession
        self._turns: asyncio.Semaphore

    async def post(self, url: str, payload: object, *, timeout: float, deadline: float) -> tuple[int, bytes]:
        """Make one request; to be run by ``wait_for``.

        Args:
            url: Where to.
            payload: Sent as JSON.
            timeout: Seconds from its turn to the answer's last byte.
            deadline: Seconds for all of it, the wait for its turn included.

        Returns:
            The answer's status and body.

        Raises:
            TimeoutError: If it takes longer.
            aiohttp.ClientError: If there is no answer.
        """
        whole = aiohttp.ClientTimeout(total=timeout)
        async with (
            asyncio.timeout(deadline),
            self._turns,
            self._session.post(url, json=payload, timeout=whole) as response,
        ):
            return response.status, await response.read()

    def wait_for(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the thread and wait for what it returns or raises."""
        with self._lock:
            if self._http is None or not self._http.is_open:
                self._http = HttpThread("retriever")
                self._session = self._http.session()
                self._turns = asyncio.Semaphore(self._max_requests)
            future = self._http.begin(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()  # matters only if the waiting thread is interrupted

    def close(self) -> None:
        """Close every connection and end the thread; the next call opens them again."""
        with self._lock:
            if self._http is not None:
                self._http.close()
