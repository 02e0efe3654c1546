"""OpenEnv's wire: messages over a WebSocket, one session a connection, or requests over HTTP where there is none.

A client sends ``{"type": "reset" | "step" | "state", "data": {...}}`` to ``/ws``, and gets for each message, in order,
``{"type": "observation" | "state" | "error", "data": {...}}``. Messages may be sent before earlier ones are answered,
so that a step and the state after it cost one way to the server and back.
"""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from gigpo_lightning.errors import RunError, check_range
from gigpo_lightning.http_thread import HttpThread
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.strict_json import load_json
from gigpo_lightning.text import shown

_logger = logging.getLogger(__name__)

Message = Mapping[str, Any]

FULL, NO_SESSION = "CAPACITY_REACHED", ("FACTORY_ERROR", "SESSION_ERROR")
_LARGEST = 1 << 26  # bytes of a message
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_NO_WEBSOCKET = (400, 403, 404, 405, 426, 501)  # what servers answer who have none there
_T = TypeVar("_T")


class LostError(ConnectionError):
    """The connection to the server, and with it the episode's world, is gone."""


class _NoWebSocketError(Exception):
    """The server has no WebSocket."""


class Wire(PerProcess):
    """A server's address and, in each process, the thread and the connections that lead to it.

    Args:
        url: Its address, without ``/ws``.
        deadline: Seconds that anything may take, with all its attempts.

    Raises:
        ValueError: If the address is none, or the deadline is not above 0.
    """

    def __init__(self, url: str, deadline: float) -> None:
        check_range("deadline", deadline, 1e-3, why="seconds")
        self.url, self.deadline = _address(url), deadline
        self._start()

    def _start(self) -> None:
        self._http: HttpThread | None = None
        self._client: aiohttp.ClientSession
        self._lock = threading.Lock()
        self._schema: Mapping[str, Any] | None = None
        self._owner: object = None  # of the one world of a server without sessions
        self._has_failed = False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin what the thread does by itself."""
        assert self._http is not None, "a session has been opened in it"
        self._http.begin(coroutine)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Wait for what is done in the thread."""
        with self._lock:
            if self._http is None or not self._http.is_open:
                self._http = HttpThread("openenv")
                self._client = self._http.session()
            future = self._http.begin(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()  # matters only if the waiting thread is interrupted

    def schema(self) -> Mapping[str, Any]:
        """What ``/schema`` says of actions and observations; empty if the server does not say.

        Raises:
            RunError: If the server does not answer.
        """
        if self._schema is None:
            status, found = self.fetch("GET", "/schema")
            self._schema = found if status == 200 and isinstance(found, dict) else {}
        return self._schema

    def note_failure(self, why: str) -> None:
        """Say, once a process, that the server has failed on an action."""
        if not self._has_failed:
            _logger.warning(
                "the environment server %s failed on an action, and the policy is told why: %s. Such steps are counted "
                "in rollout/server_errors",
                self.url,
                why,
            )
        self._has_failed = True

    def fetch(self, method: str, path: str, data: object = None) -> tuple[int, Any]:
        """A request over HTTP, made again until the deadline while the server cannot be reached.

        Returns:
            The status, and what the JSON of the body says; None if it is not JSON.

        Raises:
            RunError: If the server does not answer.
        """
        return self.run(self._until_deadline(lambda: self.request(method, path, data)))

    async def request(self, method: str, path: str, data: object = None) -> tuple[int, Any]:
        """One request over HTTP; LostError if there is no answer."""
        try:
            async with self._client.request(method, self.url + path, json=data) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(f"{type(error).__name__}: {error}") from error
        try:
            return status, load_json(body)
        except ValueError:
            return status, None

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket."""
        try:
            return await self._client.ws_connect(f"{self.url}/ws", max_msg_size=_LARGEST)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in _NO_WEBSOCKET:
                raise _NoWebSocketError from error
            raise LostError(f"it answered with {error.status}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(f"{type(error).__name__}: {error}") from error

    async def _until_deadline(self, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Try again while the server cannot be reached."""
        end, wait, cause = time.monotonic() + self.deadline, _FIRST_WAIT, "it has not answered"
        try:
            async with asyncio.timeout(self.deadline):
                while True:
                    try:
                        return await attempt()
                    except LostError as error:
                        cause = str(error)
                    await asyncio.sleep(min(wait, max(0.0, end - time.monotonic())))
                    wait = min(2 * wait, _LONGEST_WAIT)
        except TimeoutError as error:
            raise RunError(
                f"the environment server {self.url} cannot be reached ({cause}); given up after {self.deadline:g} s. "
                "Is it running?"
            ) from error


class _Call:
    """Messages that are sent together, and their answers."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.texts = [json.dumps(message) for message in messages]
        self.answers: Future[Sequence[str]] = Future()
        self._taken: list[str] = []

    def take(self, answer: str) -> bool:
        """Take the next answer; whether it is the last one."""
        self._taken.append(answer)
        if len(self._taken) < len(self.texts):
            return False
        self.answers.set_result(self._taken)
        return True

    def lose(self, why: str) -> None:
        """Say that no more answers will come."""
        if not self.answers.cancelled():
            self.answers.set_exception(LostError(why))


class Session:
    """The world of one episode after the other, on a connection of its own.

    Args:
        wire: Leads to the server.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: deque[_Call] = deque()
        self._leaving: asyncio.Task[None]
        self._last_words = ""
        self._over_http = False

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """Send an episode's first messages, on a new connection if the old one is gone.

        Raises:
            RunError: If the server cannot be reached or takes no more sessions until the deadline.
        """
        return self._wire.run(self._wire._until_deadline(lambda: self._begin(messages)))

    def ask(self, messages: Sequence[Message]) -> list[Message]:
        """Send messages of an episode that has begun, all at once, and wait for their answers.

        Raises:
            LostError: If the connection is gone, or there is no answer in time: the episode's world is lost.
        """
        if self._over_http:
            return self._wire.run(self._over_http_in_turn(messages))
        call = _Call(messages)
        self._wire.start(self._send(call))
        try:
            return self._checked(call.answers.result(self._wire.deadline))
        except TimeoutError as error:
            self._wire.run(self._end())  # a late answer would be taken for the next one's
            raise LostError(
                f"the environment server {self._wire.url} has not answered within {self._wire.deadline:g} s"
            ) from error

    def close(self) -> None:
        """Leave the server."""
        if self._socket is not None:
            self._wire.run(self._end())

    async def _end(self) -> None:
        if self._socket is not None:
            self._leave()
            await self._leaving

    async def _begin(self, messages: Sequence[Message]) -> list[Message]:
        if self._over_http:
            return await self._over_http_in_turn(messages)
        if self._socket is not None and not self._socket.closed:
            with contextlib.suppress(LostError):  # idle for too long
                return await self._ask(messages)
        self._leave()
        try:
            self._socket = await self._wire.connect()
        except _NoWebSocketError:
            self._over_http = True
            return await self._over_http_in_turn(messages)
        self._last_words = ""
        self._reader = asyncio.create_task(self._read(self._socket))
        return await self._ask(messages)

    async def _ask(self, messages: Sequence[Message]) -> list[Message]:
        """Send messages, and wait in the thread that also reads the answers."""
        call = _Call(messages)
        await self._send(call)
        try:
            return self._checked(await asyncio.wrap_future(call.answers))
        finally:
            if self._waiting:
                self._leave()  # a late answer would be taken for the next one's

    async def _send(self, call: "_Call") -> None:
        socket = self._socket
        if socket is None or socket.closed:
            call.answers.set_exception(LostError(self._gone()))
            return
        self._waiting.append(call)
        try:
            for text in call.texts:
                await socket.send_str(text)
        except (aiohttp.ClientError, OSError):
            self._leave()

    def _checked(self, answers: Sequence[str]) -> list[Message]:
        return [self._read_answer(answer) for answer in answers]

    def _read_answer(self, text: str) -> Message:
        message = load_json(text)
        if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
            raise ValueError(f"the environment server must answer with a type and data, but said {shown(text)}")
        code = message["data"].get("code") if message.get("type") == "error" else None
        if code == FULL or code in NO_SESSION:
            raise LostError(_of_session(message["data"]))
        return message

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hand answers to those who wait; reading also answers the server's pings while a policy thinks."""
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            self._last_words = message.data
            if self._waiting and self._waiting[0].take(message.data):
                self._waiting.popleft()
        if socket is self._socket:
            self._leave()

    def _leave(self) -> None:
        """Leave the connection behind, and tell those who wait."""
        socket, self._socket = self._socket, None
        reader, self._reader = self._reader, None
        while self._waiting:
            self._waiting.popleft().lose(self._gone())
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        if socket is not None:
            self._leaving = asyncio.create_task(_close(socket))

    def _gone(self) -> str:
        said = ""
        with contextlib.suppress(ValueError):
            last = load_json(self._last_words)
            if isinstance(last, dict) and last.get("type") == "error" and isinstance(last.get("data"), dict):
                said = f": {_of_session(last['data'])}"
        return f"the connection to the environment server {self._wire.url} is lost{said}"

    async def _over_http_in_turn(self, messages: Sequence[Message]) -> list[Message]:
        """The same messages as requests: such a server has one world for all who ask."""
        if messages[0]["type"] == "reset":
            self._wire._owner = self
        elif self._wire._owner is not self:
            raise RunError(
                f"the environment server {self._wire.url} has no WebSocket at /ws, and without it one world for all "
                "episodes: play them one after the other with data.num_slots 1, or serve it with sessions"
            )
        return [await self._over_http_once(message) for message in messages]

    async def _over_http_once(self, message: Message) -> Message:
        kind, data = message["type"], message.get("data", {})
        if kind == "state":
            status, body = await self._wire.request("GET", "/state")
        else:
            status, body = await self._wire.request("POST", f"/{kind}", {"action": data} if kind == "step" else data)
        if status == 200 and isinstance(body, dict):
            return {"type": "state" if kind == "state" else "observation", "data": body}
        detail = body.get("detail", body) if isinstance(body, dict) else body
        refused = isinstance(detail, list)
        return {
            "type": "error",
            "data": {"message": f"status {status}" if refused else str(detail), "errors": detail if refused else []},
        }


async def _close(socket: aiohttp.ClientWebSocketResponse) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        await socket.close()


def _of_session(data: Mapping[str, Any]) -> str:
    """Why a server opens no session."""
    said = str(data.get("message", data))
    if data.get("code") != FULL:
        return said
    return (
        f"{said} It takes {data.get('max_sessions', 'so many')} sessions at once, and each of data.num_slots episodes "
        "needs one: raise its max_concurrent_envs, or lower num_slots"
    )


def _address(url: str) -> str:
    """A server's address for HTTP, without its last slash."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http://, https://, ws:// or wss:// and name a host, got {url!r}")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/ws"), "", ""))
