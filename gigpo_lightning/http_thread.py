"""HTTP from a thread that does nothing else, so that it never waits for the rest of the program."""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import aiohttp

_T = TypeVar("_T")

# Of a parent process: collected in its child, they would take the parent's sockets out of the loop that both inherit.
_inherited: list[object] = []


class HttpThread:
    """An event loop in a daemon thread, with HTTP sessions; ends when closed, collected, or the process exits."""

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._sessions: list[aiohttp.ClientSession] = []
        thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _close, self._loop, self._sessions, thread, self._process)

    @property
    def is_open(self) -> bool:
        """Whether it runs in this process: no thread survives a fork."""
        return self._end.alive and self._process == os.getpid()

    def session(
        self, *, headers: Mapping[str, str] | None = None, connections: int = 0, keep: bool = True
    ) -> aiohttp.ClientSession:
        """Open a session for the thread's coroutines; 0 ``connections`` to a server are as many as wanted."""
        # Uvicorn closes what has been idle for 5 s; reusing it just then would look like a lost server.
        kept: dict[str, Any] = {"keepalive_timeout": 2.0} if keep else {"force_close": True}

        async def opened() -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=connections, **kept)
            return aiohttp.ClientSession(headers=headers, connector=connector)

        self._sessions.append(self.begin(opened()).result())
        return self._sessions[-1]

    def begin(self, coroutine: Coroutine[Any, Any, _T]) -> "Future[_T]":
        """Start a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Break off every call and end the thread; a second call does nothing."""
        self._end()


def _close(
    loop: asyncio.AbstractEventLoop, sessions: list[aiohttp.ClientSession], thread: threading.Thread, process: int
) -> None:
    if process != os.getpid():
        _inherited.append((loop, sessions))
    elif threading.current_thread() is not thread:
        for session in sessions:
            asyncio.run_coroutine_threadsafe(session.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
