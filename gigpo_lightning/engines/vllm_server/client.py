"""HTTP to vLLM servers."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from gigpo_lightning.engines.vllm_server.guard import check_key
from gigpo_lightning.errors import check_range
from gigpo_lightning.http_thread import HttpThread

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_SAY_EVERY = 10.0
"""Seconds between two log lines about a wait."""
_LONGEST_REASON = 500
_NO_HTTP = (aiohttp.ClientResponseError, aiohttp.ClientSSLError, aiohttp.InvalidURL)


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class ServerTimeouts:
    """How long a server may take, in seconds."""

    start: float = 600.0
    """To answer at all when the run begins: it may be starting too."""
    connect: float = 10.0
    """To accept a connection."""
    reply: float = 600.0
    """To write a reply, once it has the request."""
    weights: float = 600.0
    """To take in one part of the weights."""

    def __post_init__(self) -> None:
        for name in ("start", "connect", "reply", "weights"):
            check_range(f"timeouts.{name}", getattr(self, name), 1e-3, why="seconds")


class ServerError(Exception):
    """A server is not there, is too slow, or refuses.

    Args:
        url: The server's.
        reason: What it did.
        status: Of its answer; 0 where there was none.
        broken: Whether the connection broke.
        stranger: Whether the answer is not HTTP with JSON.
    """

    def __init__(self, url: str, reason: str, status: int = 0, *, broken: bool = False, stranger: bool = False) -> None:
        super().__init__(f"the vLLM server {url} {reason}")
        self.url = url
        self.status = status
        self.broken = broken
        self.stranger = stranger


class ServerClient:
    """Talks to several servers at once.

    The secret comes from the environment variable ``VLLM_API_KEY``, as on the server: a configuration is written down.

    Args:
        timeouts: Of every call.
        max_connections: Calls under way at the same time, to each server.

    Raises:
        ValueError: If the secret cannot be sent.
    """

    def __init__(self, timeouts: ServerTimeouts, max_connections: int) -> None:
        self.timeouts = timeouts
        secret = os.environ.get("VLLM_API_KEY")
        if secret:
            check_key(secret, "VLLM_API_KEY")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._http = HttpThread("vllm-servers")
        self._session = self._http.session(headers=headers, connections=max_connections)
        # Never waits behind replies. No keep-alive: vLLM's server closes a connection some time after an error.
        self._control = self._http.session(headers=headers, keep=False)

    async def generate(self, url: str, path: str, payload: Any) -> Any:
        """Ask for a reply; once more if the connection breaks.

        Raises:
            ServerError: If there is none.
        """
        try:
            return await self.call("POST", url, path, payload, seconds=self.timeouts.reply, session=self._session)
        except ServerError as error:
            if not error.broken:
                raise
        await asyncio.sleep(0.1)
        return await self.call("POST", url, path, payload, seconds=self.timeouts.reply, session=self._session)

    async def call(
        self,
        method: str,
        url: str,
        path: str,
        payload: Any = None,
        *,
        seconds: float,
        session: aiohttp.ClientSession | None = None,
        after: float = 0.0,
    ) -> Any:
        """One call, ``after`` seconds from now; runs in the client's thread.

        Redirections are not followed: they would take the secret elsewhere.

        Raises:
            ServerError: If there is no answer in time, or it is not 200.
        """
        await asyncio.sleep(after)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect, sock_read=seconds)
        try:
            async with (session or self._control).request(
                method, url + path, json=payload, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status == 200:
                    return await response.json()
                text = " ".join((await response.content.read(_LONGEST_REASON)).decode(errors="replace").split())
        except aiohttp.ConnectionTimeoutError as error:
            raise ServerError(url, f"has not taken a connection within {self.timeouts.connect:g} s") from error
        except TimeoutError as error:
            raise ServerError(url, f"has not answered {method} {path} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            stranger = isinstance(error, _NO_HTTP) or not isinstance(error, aiohttp.ClientError | OSError)
            reason = f"cannot be asked ({type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]})"
            raise ServerError(url, reason, broken=not stranger, stranger=stranger) from error
        raise ServerError(url, f"answered {method} {path} with {response.status}: {text}", response.status)

    def begin(
        self, coroutine: Coroutine[Any, Any, _T], done: "Callable[[Future[_T]], None] | None" = None
    ) -> "Future[_T]":
        """Start a coroutine; ``done`` is called from the client's thread."""
        future = self._http.begin(coroutine)
        if done is not None:
            future.add_done_callback(done)
        return future

    def get(self, url: str, path: str, *, seconds: float) -> Any:
        """Ask one server and wait for the answer."""
        return self._wait(self.call("GET", url, path, seconds=seconds), f"{url} to answer GET {path}")

    def post(self, url: str, path: str, payload: Any = None, *, seconds: float) -> Any:
        """Tell one server something and wait for the answer."""
        return self._wait(self.call("POST", url, path, payload, seconds=seconds), f"{url} to answer POST {path}")

    def post_all(self, urls: Sequence[str], path: str, payloads: Any = None, *, seconds: float) -> list[Any]:
        """Tell every server something at once; a list of payloads has one for each.

        Raises:
            ServerError: If one of them fails; the others have been waited for.
        """
        each = payloads if isinstance(payloads, list) else [payloads] * len(urls)
        calls = [
            self.call("POST", url, path, payload, seconds=seconds) for url, payload in zip(urls, each, strict=True)
        ]
        return self._wait(_all(calls), f"{', '.join(urls)} to answer POST {path}, {seconds:g} s at most")

    def close(self) -> None:
        """Break off every call and end the thread; a second call does nothing."""
        self._http.close()

    def _wait(self, coroutine: Coroutine[Any, Any, _T], what: str) -> _T:
        """Wait for a coroutine's result, and log every 10 s that it waits."""
        future, begun = self._http.begin(coroutine), time.monotonic()
        while not wait([future], timeout=_SAY_EVERY).done:
            _logger.info("waiting for %s, for %.0f s now", what, time.monotonic() - begun)
        return future.result()


async def _all(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Wait for all, then raise the first error."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
