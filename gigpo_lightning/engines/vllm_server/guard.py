"""What stands before everything that a `gigpo-server` answers: without the key, nothing but ``/health``.

vLLM asks for its key only below some prefixes, and generates for strangers elsewhere (``/invocations``). This is an
ASGI middleware around the whole application, so that a path which vLLM adds tomorrow is behind the key as well.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gigpo_lightning.listening import is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MIDDLEWARE = f"{__name__}.RequireKey"
"""For vLLM's option ``--middleware``; the last one that is named stands before all others."""

_OPEN = [("GET", "/health"), ("HEAD", "/health")]


class RequireKey:
    """Answers 401 to whoever does not send one of the server's keys as ``Authorization: Bearer KEY``.

    A server without a key, which listens on loopback alone, answers everyone. Methods, paths and websockets are treated
    alike: only ``GET`` and ``HEAD`` of exactly ``/health`` are open. A browser's preflight request carries no key, so
    pages of other origins cannot use a server that has one.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        body = json.dumps({"error": "this server wants its key, as Authorization: Bearer KEY"}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"www-authenticate", b"Bearer"),
        ]
        await send({"type": f"{prefix}.response.start", "status": 401, "headers": headers})
        await send({"type": f"{prefix}.response.body", "body": body})

    def _may_pass(self, scope: Message) -> bool:
        if scope["type"] == "http" and (scope["method"], scope["path"]) in _OPEN:
            return True
        keys = server_keys(scope["app"].state.args)
        return not keys or _has_key(scope["headers"], keys)


def server_keys(arguments: Any) -> list[str]:
    """The keys of a ``vllm serve``, by its rule: those of ``--api-key``, else the environment's ``VLLM_API_KEY``.

    Raises:
        ValueError: If one is empty or cannot be sent, or there is none on a host that other machines reach. vLLM would
            leave out an empty key, and with it the lock.
    """
    keys = arguments.api_key or [key for key in [os.environ.get("VLLM_API_KEY")] if key]
    for key in keys:
        check_key(key, "--api-key or VLLM_API_KEY")
    if not keys and not arguments.uds and not is_loopback(arguments.host or ""):
        raise ValueError(f"a server on host {arguments.host!r} must have a key: set VLLM_API_KEY")
    return list(keys)


def check_key(key: str, name: str) -> None:
    """Refuse a key that no header can carry, without showing it.

    Raises:
        ValueError: If it is not printable ASCII without spaces.
    """
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        what = f"{len(key)} characters that are otherwise" if key else "nothing"
        raise ValueError(f"{name} must be printable ASCII without spaces or line breaks, got {what}")


def _has_key(headers: list[tuple[bytes, bytes]], keys: list[str]) -> bool:
    sent = [value for name, value in headers if name == b"authorization"]
    if len(sent) != 1:
        return False
    scheme, _, secret = sent[0].partition(b" ")
    # Every key is compared, in a time that does not say how much of it was right.
    matches = [hmac.compare_digest(secret, key.encode()) for key in keys]
    return scheme.lower() == b"bearer" and any(matches)
