"""Searching on servers: Search-R1's, or our own ``gigpo-retriever``."""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from gigpo_lightning.errors import RunError, check_count, check_range
from gigpo_lightning.http_thread import HttpThread
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.messages import parse_answer
from gigpo_lightning.strict_json import load_json

_PASSING = (408, 425, 429)  # and every 5xx: another try may succeed


class _PassingFailure(Exception):
    """A request failed, and another try may succeed."""


class HttpRetriever(PerProcess):
    """Asks retrieval servers that speak Search-R1's protocol.

    A request that fails in passing (no connection, no answer in time, a status of 5xx, 408, 425 or 429) is made again:
    at once on another server, or, when all have failed lately, after a wait that doubles each time. Any other status,
    and an answer that is no list of passages, ends the search. Copies made with ``copy.deepcopy`` are the object
    itself, so that all environments of a process share its connections; a pickled one opens its own.

    Differs from the reference client, which sends one query a request, and returns no passages when it gives up: here
    that is an error, or an agent would learn from a broken tool.

    Args:
        urls: Address of each server; ``/retrieve`` is added to one without a path. They are asked in turn.
        form: ``queries`` sends many queries in a request; ``query`` sends one, for servers that know no other.
        deadline: Seconds that a search may take with all its retries. The default stays below the 60 s after which a
            worker process counts as hung.
        timeout: Seconds that a server may take for one request.
        attempts: Requests that are made at most before a search is given up.
        first_wait: Seconds before a request is made again; from half of it to all of it, at random.
        longest_wait: Seconds that the doubled waits end at.
        pause: Seconds for which a server that failed is left out, as long as another is not.
        batch_size: Queries in one request, at most; a longer search makes several at the same time.
        max_requests: Requests under way at the same time, from all threads of a process; more wait for their turn.

    Raises:
        ValueError: If an address is none, or a number out of range.
    """

    def __init__(
        self,
        urls: list[str] | str,
        *,
        form: Literal["queries", "query"] = "queries",
        deadline: float = 45.0,
        timeout: float = 20.0,
        attempts: int = 10,
        first_wait: float = 0.5,
        longest_wait: float = 10.0,
        pause: float = 30.0,
        batch_size: int = 256,
        max_requests: int = 32,
    ) -> None:
        for name, value in (("deadline", deadline), ("timeout", timeout)):
            check_range(name, value, 1e-3, why="seconds")
        for name, value in (("first_wait", first_wait), ("longest_wait", longest_wait), ("pause", pause)):
            check_range(name, value, why="seconds")
        for name, count in (("attempts", attempts), ("batch_size", batch_size), ("max_requests", max_requests)):
            check_count(name, count)
        self.urls = [_address(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls:
            raise ValueError("urls must name at least one server, got none")
        if form not in ("queries", "query"):
            raise ValueError(f"form must be 'queries' or 'query', got {form!r}")
        self.form = form
        self.deadline = deadline
        self.timeout = timeout
        self.attempts = attempts
        self.first_wait = first_wait
        self.longest_wait = longest_wait
        self.pause = pause
        self.batch_size = batch_size if form == "queries" else 1
        self.max_requests = max_requests
        self._start()

    def _start(self) -> None:
        """Make the attributes of this process."""
        self._http: HttpThread | None = None  # opened by the first search
        self._session: aiohttp.ClientSession
        self._turns: asyncio.Semaphore
        self._lock = threading.Lock()
        self._turn = 0
        self._paused_until = dict.fromkeys(self.urls, 0.0)
        self._random = random.Random()  # not the run's: waits must not change what is played

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Ask for the passages of each query, best first.

        Raises:
            RunError: If no server answers in time, or one answers with something else than passages.
            ValueError: If ``top_k`` < 1 or ``queries`` is a string.
        """
        check_count("top_k", top_k)
        if isinstance(queries, str):
            raise ValueError(f"queries must be a list of strings, got {queries!r}")
        if not queries:
            return []
        end = time.monotonic() + self.deadline
        with self._lock:
            if self._http is None or not self._http.is_open:
                self._http = HttpThread("retriever")
                self._session = self._http.session()
                self._turns = asyncio.Semaphore(self.max_requests)
            future = self._http.begin(self._search(list(queries), top_k, end))
        try:
            return future.result()
        finally:
            future.cancel()  # matters only if the waiting thread is interrupted

    def close(self) -> None:
        """Close the connections; a later search opens them again."""
        with self._lock:
            if self._http is not None:
                self._http.close()

    async def _search(self, queries: list[str], top_k: int, end: float) -> list[list[Passage]]:
        """All requests of a search at the same time; the first final failure ends the others."""
        batches = [queries[start : start + self.batch_size] for start in range(0, len(queries), self.batch_size)]
        tasks = [asyncio.create_task(self._ask(batch, top_k, end)) for batch in batches]
        try:
            answers = await asyncio.gather(*tasks)
        except RunError:
            for task in tasks:
                task.cancel()
            raise
        return [passages for answer in answers for passages in answer]

    async def _ask(self, queries: list[str], top_k: int, end: float) -> list[list[Passage]]:
        """One request, until it is answered or given up."""
        asked: dict[str, Any] = {"queries": queries} if self.form == "queries" else {"query": queries[0]}
        payload = asked | {"topk": top_k, "return_scores": True}
        wait = self.first_wait
        for attempt in range(1, self.attempts + 1):
            url = self._next_url()
            try:
                answer = await self._post(url, payload, end - time.monotonic())
                break
            except _PassingFailure as error:
                self._paused_until[url] = time.monotonic() + self.pause
                cause = error
            pause = 0.0
            if min(self._paused_until.values()) > time.monotonic():
                pause = wait * self._random.uniform(0.5, 1.0)
                wait = min(2 * wait, self.longest_wait)
            if attempt == self.attempts or time.monotonic() + pause >= end:
                others = f" (of {', '.join(self.urls)})" if len(self.urls) > 1 else ""
                raise RunError(
                    f"the retriever {url}{others} {cause}; given up after {attempt} of at most {self.attempts} "
                    f"attempts in {self.deadline:g} s. Is it running? gigpo-retriever starts one."
                ) from cause
            await asyncio.sleep(pause)
        try:
            return parse_answer(answer, len(queries), top_k)
        except ValueError as error:
            raise RunError(f"the retriever {url} did not answer with passages: {error}") from error

    async def _post(self, url: str, payload: dict[str, Any], seconds_left: float) -> object:
        """Make one request and read its JSON."""
        whole = aiohttp.ClientTimeout(total=self.timeout)  # from its turn on
        try:
            async with (
                asyncio.timeout(seconds_left),
                self._turns,
                self._session.post(url, json=payload, timeout=whole) as response,
            ):
                status, body = response.status, await response.read()
        except TimeoutError as error:
            seconds = max(0.0, min(self.timeout, seconds_left))
            raise _PassingFailure(f"has not answered within {seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _PassingFailure(f"cannot be asked ({type(error).__name__}: {error})") from error
        if status != 200:
            reason = f"answered with {status}: {body[:500].decode(errors='replace')}"
            if status >= 500 or status in _PASSING:
                raise _PassingFailure(reason)
            raise RunError(f"the retriever {url} {reason}")
        try:
            return load_json(body)
        except ValueError as error:
            start = body[:200].decode(errors="replace")
            raise RunError(f"the retriever {url} did not answer with JSON ({error}), but: {start!r}") from error

    def _next_url(self) -> str:
        """The next server that has not failed lately; if all have, the one that failed first."""
        now = time.monotonic()
        self._turn += 1
        order = [self.urls[(self._turn + number) % len(self.urls)] for number in range(len(self.urls))]
        return min(order, key=lambda url: max(self._paused_until[url], now))


def _address(url: str) -> str:
    """A server's whole address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"urls must begin with http:// or https:// and name a host, got {url!r}")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/retrieve"
