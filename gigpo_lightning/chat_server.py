"""Asking a server of the OpenAI protocol for a chat's next message: vLLM, llama.cpp, SGLang, Ollama, a hosted model.

What is asked of ``/v1/chat/completions``, and what its answers mean, is here and nowhere else.
"""

import asyncio
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from gigpo_lightning.chat_model import ChatReply, ChatServerError, Message
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.http_thread import HttpThread
from gigpo_lightning.listening import is_loopback
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.strict_json import load_json
from gigpo_lightning.text import shown, well_formed

_logger = logging.getLogger(__name__)

_ROUTE = "chat/completions"
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a request is made again
_QUIET = 60.0  # seconds for which no further request that is made again is told of
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LONGEST_REASON = 500  # characters of an answer that are shown
_ACCOUNT = re.compile(r"//[^/@\s]+@")  # a user and a password, as a proxy's address may have them
_SECRET = re.compile(r"(?:^|[&;])(?:api[-_]?key|key|(?:access[-_])?token)=", re.IGNORECASE)
_BROKEN_OFF = ("error", "abort")  # why a reply ended, as OpenRouter and vLLM say it of one that they have not finished
_OURS = frozenset({"model", "messages", "tools", "stream", "n"})


class ChatServer(PerProcess):
    """Asks one model on one server.

    A request that fails in passing (no connection, no answer in time, a status of 5xx, 408, 409, 425 or 429) is made
    again after a wait that doubles each time, or is as long as the server's ``Retry-After``. Any other status ends it.
    Copies made with ``copy.deepcopy`` are the object itself, so that all environments of a process share its
    connections; a pickled one opens its own. The proxies of the environment (``HTTPS_PROXY``) are used.

    Args:
        url: The server's address; ``/v1`` is added to one without a path, and then ``/chat/completions``.
        model: The model, by the server's name for it.
        key_variable: Name of the environment variable that holds the server's key; default: no key is sent. The key
            itself stands in no configuration, and in no file that a run writes.
        fields: Other fields of every request, such as ``reasoning_effort``; null leaves a field out, such as ``seed``
            for a server that refuses it.
        deadline: Seconds that a reply may take at most with all its tries.
        timeout: Seconds that the server may take for one request.
        attempts: Requests that are made at most before a reply is given up.
        max_requests: Requests under way at the same time, from all threads of a process; more wait for their turn.

    Raises:
        ValueError: If the address is none or has a password or a key in it, the model has no name, a field is one that
            cannot be set or holds what JSON cannot, or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        fields: dict[str, Any] | None = None,
        *,
        deadline: float = 600.0,
        timeout: float = 120.0,
        attempts: int = 8,
        max_requests: int = 32,
    ) -> None:
        for name, seconds in (("deadline", deadline), ("timeout", timeout)):
            check_range(name, seconds, 1e-3, why="seconds")
        for name, count in (("attempts", attempts), ("max_requests", max_requests)):
            check_count(name, count)
        if not model:
            raise ValueError("model must be the server's name of a model, got nothing")
        if taken := sorted(_OURS & (fields or {}).keys()):
            raise ValueError(f"fields must not set {taken[0]!r}, which every request has already")
        try:
            json.dumps(fields, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"fields must be what JSON can hold, got {shown(fields)}: {error}") from error
        self.url = _address(url)
        self.model = model
        self.key_variable = key_variable
        self.fields = fields or {}
        self.deadline = deadline
        self.timeout = timeout
        self.attempts = attempts
        self.max_requests = max_requests
        self._start()

    def _start(self) -> None:
        """Make the attributes of this process."""
        self._http: HttpThread | None = None  # opened by the first request
        self._session: aiohttp.ClientSession
        self._turns: asyncio.Semaphore
        self._lock = threading.Lock()
        self._random = random.Random()  # not the run's: waits must not change what is played
        self._key = ""
        self._under_way: set[Future[ChatReply]] = set()
        self._quiet_until = 0.0

    def open(self) -> None:
        """Read the key, and be ready to ask; a second call does nothing.

        Raises:
            ValueError: If the key's environment variable is not set, or holds what no header can carry.
        """
        with self._lock:
            if self._http is None or not self._http.is_open:
                self._key = _key(self.key_variable)
                self._http = HttpThread("chat-server")
                self._under_way = set()
                self._session = self._http.session(
                    headers={"Authorization": f"Bearer {self._key}"} if self._key else None
                )
                self._turns = asyncio.Semaphore(self.max_requests)

    def ask(
        self, messages: Sequence[Message], *, temperature: float, max_tokens: int, seed: int, deadline: float
    ) -> ChatReply:
        """The next message of a chat, within ``deadline`` seconds from now, or its own if that is less.

        Raises:
            ChatServerError: If there is none in time.
            ValueError: As ``open``.
        """
        self.open()
        body = self.body(messages, temperature=temperature, max_tokens=max_tokens, seed=seed)
        future = self._begin(body, time.monotonic() + min(deadline, self.deadline))
        try:
            return future.result()
        except CancelledError as error:
            raise ChatServerError(self.url, "is no longer asked: its client was closed") from error
        finally:
            future.cancel()  # matters only if the waiting thread is interrupted

    def begin(self, body: Mapping[str, Any], done: "Callable[[Future[ChatReply]], None]") -> "Future[ChatReply]":
        """Ask in the background, after ``open``; the deadline counts from its turn, and ``done`` is called at the end.

        Args:
            body: As ``body`` makes it.
            done: Called from another thread.
        """
        future = self._begin(body, None)
        future.add_done_callback(done)
        return future

    def _begin(self, body: Mapping[str, Any], end: float | None) -> "Future[ChatReply]":
        assert self._http is not None
        future = self._http.begin(self._reply(body, end))
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def body(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        tools: Sequence[Mapping[str, Any]] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """What the server is asked."""
        body = {"model": self.model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
        body |= {"seed": seed} | ({"tools": list(tools)} if tools else {}) | more | self.fields
        return {name: value for name, value in body.items() if value is not None}

    def close(self) -> None:
        """Break off every request and close the connections; a later one opens them again."""
        with self._lock:
            if self._http is not None:
                for future in list(self._under_way) if self._http.is_open else ():  # else of a parent process
                    future.cancel()
                self._http.close()

    async def _reply(self, body: Mapping[str, Any], end: float | None) -> ChatReply:
        """One reply, until there is one or it is given up."""
        try:
            async with asyncio.timeout(None if end is None else end - time.monotonic()):
                await self._turns.acquire()
        except TimeoutError as error:
            reason = f"is busy: {self.max_requests} other requests have not ended in time"
            raise ChatServerError(self.url, reason) from error
        try:
            return await self._try_again(body, time.monotonic() + self.deadline if end is None else end)
        finally:
            self._turns.release()

    async def _try_again(self, body: Mapping[str, Any], end: float) -> ChatReply:
        wait, begun = _FIRST_WAIT, time.monotonic()
        for attempt in range(1, self.attempts + 1):
            try:
                return self._read(await self._post(body, end - time.monotonic()), attempt)
            except ChatServerError as error:
                pause = max(error.wait, wait * self._random.uniform(0.5, 1.0))
                wait = min(2 * wait, _LONGEST_WAIT)
                if not error.passing:
                    raise
                if attempt == self.attempts or time.monotonic() + pause >= end:
                    seconds = time.monotonic() - begun
                    tried = f"; given up after {attempt} of at most {self.attempts} tries in {seconds:.3g} s"
                    raise ChatServerError(
                        self.url, f"{error}{tried}".partition(f"{self.url} ")[2], error.status
                    ) from error
                self._tell(error, pause)
            await asyncio.sleep(pause)
        raise AssertionError("attempts is at least 1")

    def _tell(self, error: ChatServerError, pause: float) -> None:
        """Say that a request is made again, not each time: a server that is not there costs its tries a minute."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            _logger.warning("%s; asking again in %.2g s", error, pause)

    async def _post(self, body: Mapping[str, Any], seconds_left: float) -> object:
        """Make one request and read its JSON."""
        seconds = max(1e-3, min(self.timeout, seconds_left))
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.post(
                self.url, json=body, timeout=limit, allow_redirects=False, proxy=_proxy(self.url)
            ) as response:
                status, answer = response.status, await response.read()
                wait = _seconds(response.headers.get("Retry-After", ""))
        except TimeoutError as error:
            raise ChatServerError(self.url, f"has not answered within {seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = f"cannot be asked ({type(error).__name__}: {self._shown(str(error))})"
            raise ChatServerError(self.url, reason) from error
        if status != 200:
            raise ChatServerError(self.url, self._refusal(status, answer), status, wait)
        try:
            return load_json(answer)
        except ValueError as error:
            said = self._shown(answer.decode(errors="replace"))
            raise ChatServerError(self.url, f"did not answer with JSON ({error}), but: {said!r}", status) from error

    def _refusal(self, status: int, answer: bytes) -> str:
        """What the server said, and what may help."""
        said = self._shown(answer.decode(errors="replace"))
        advice = ""
        if status in (401, 403):
            held = f"the environment variable {self.key_variable}" if self.key_variable else "key_variable"
            advice = f"; {held} must {'hold' if self.key_variable else 'name the environment variable of'} its key"
        return f"answered with {status}: {said}{advice}"

    def _shown(self, said: str) -> str:
        """The beginning of what was said, in one line, without the key or a proxy's password."""
        said = _ACCOUNT.sub("//***@", said)
        said = said.replace(self._key, "***") if self._key else said  # before it is cut, which could cut the key
        return " ".join(said.split())[:_LONGEST_REASON]

    def _read(self, answer: object, tries: int) -> ChatReply:
        """The reply in an answer.

        Raises:
            ChatServerError: If there is none in it.
        """
        found = _error_in(answer)
        if found is not None:  # proxies answer so, with 200
            code = found.get("code") if isinstance(found, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
            raise ChatServerError(self.url, f"answered with an error: {self._shown(repr(found))}", status)
        try:
            return _reply_of(answer, tries)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            reason = f"must answer with a chat completion, but: {self._shown(repr(answer))} ({error!r})"
            raise ChatServerError(self.url, reason, 200) from error


def _address(url: str) -> str:
    """The whole address of a server's chats."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"url must name a host, and a port by its number: {error}") from error
    if parts.username is not None or parts.password is not None or _SECRET.search(parts.query):
        raise ValueError(
            "url must not hold a user, a password or a key, which a run would write down; see key_variable"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found = "" if "@" in url else f", got {url!r}"  # it may hold a password
        raise ValueError(f"url must begin with http:// or https:// and name a host{found}")
    path = parts.path.rstrip("/") or "/v1"
    path = path if path.endswith(f"/{_ROUTE}") else f"{path}/{_ROUTE}"
    return urlunsplit(parts._replace(path=path, fragment=""))


def _key(variable: str | None) -> str:
    """The key that an environment variable holds; empty without one."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "")
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        what = f"{len(key)} characters that are otherwise" if key else "nothing"
        raise ValueError(
            f"key_variable names the environment variable {variable}, which must hold printable ASCII without spaces "
            f"or line breaks, but holds {what}"
        )
    return key


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(url)
    here = is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc)
    return None if here else getproxies().get(parts.scheme)


def _seconds(header: str) -> float:
    """A server's ``Retry-After`` in seconds; a date is left to the doubled waits."""
    return float(header) if _NUMBER.fullmatch(header.strip()) else 0.0


def _error_in(answer: object) -> object:
    """The error that an answer holds in a reply's place, or beside one that was broken off; None if there is none."""
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    if not choices:
        return answer.get("error")
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        return None
    reason = choice.get("finish_reason")
    return choice.get("error") or (f"finish_reason {reason!r}" if reason in _BROKEN_OFF else None)


def _reply_of(answer: Any, tries: int) -> ChatReply:
    choice = answer["choices"][0]
    message, usage = choice["message"], answer.get("usage") or {}
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return ChatReply(
        text=_text(message.get("content")),
        thought=_text(message.get("reasoning_content") or message.get("reasoning")),
        calls=tuple((str(call["name"]), _arguments(call.get("arguments"))) for call in calls),
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(answer.get("model") or ""),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        reply_tokens=int(usage.get("completion_tokens") or 0),
        tries=tries,
    )


def _text(content: Any) -> str:
    """A message's content, which may be missing, or be in parts."""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError("a message's content must be text")
    return well_formed(content or "")


def _arguments(arguments: Any) -> str:
    """A call's arguments as JSON; some servers send the object itself."""
    return well_formed(arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False))
