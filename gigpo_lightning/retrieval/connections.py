"""A process's connections to servers: an event loop in a thread of its own, opened when first needed."""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp

_T = TypeVar("_T")

# Of a parent process: collected in its child, they would take the parent's sockets out of the loop that both inherit.
_inherited: list[object] = []


class Connections:
    """Runs HTTP calls for any number of threads; each process that holds a copy opens its own when it first calls.

    Args:
        max_requests: Requests under way at the same time; more wait for their turn.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._lock = threading.Lock()
        self._process = 0
        self._loop: asyncio.AbstractEventLoop
        self._session: aiohttp.ClientSession
        self._turns: asyncio.Semaphore
        self._end: weakref.finalize[..., Connections] | None = None

    async def post(self, url: str, payload: object, *, timeout: float, deadline: float) -> tuple[int, bytes]:
        """Make one request; to be run by ``wait_for``.

        Args:
            url: Where to.
            payload: Sent as JSON.
            timeout: Seconds from when its turn has come to the answer's last byte.
            deadline: Seconds for all of it, the wait for its turn too.

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
        """Run a coroutine in the loop's thread and wait for what it returns or raises."""
        with self._lock:
            if self._process != os.getpid():  # never opened, or inherited through a fork, where no thread survives
                self._open()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does something only when the thread that waits is interrupted

    def close(self) -> None:
        """Close every connection and end the thread; the next call opens them again."""
        with self._lock:
            if self._end is not None and self._process == os.getpid():
                self._end()
            self._process = 0

    def _open(self) -> None:
        if self._process:
            _inherited.append((self._loop, self._session))
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="retriever", daemon=True)
        thread.start()
        self._turns = asyncio.Semaphore(self._max_requests)
        self._session = asyncio.run_coroutine_threadsafe(_open_session(), self._loop).result()
        self._process = os.getpid()
        if self._end is not None:
            self._end.detach()
        self._end = weakref.finalize(self, _close, self._loop, self._session, thread, self._process)


async def _open_session() -> aiohttp.ClientSession:
    # Uvicorn closes what has been idle for 5 s; reusing it just then would look like a lost server.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    return aiohttp.ClientSession(connector=connector)


def _close(
    loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession, thread: threading.Thread, process: int
) -> None:
    if process != os.getpid() or threading.current_thread() is thread:
        return
    asyncio.run_coroutine_threadsafe(session.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
