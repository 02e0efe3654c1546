"""A web server whose connections are bounded in number and in time.

aiohttp has no bound for either: whoever sends half a header is waited for without an end.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gigpo_lightning.retrieval.limits import Limits

_LAST_SECONDS = 1.0
"""That requests under way get at the end, and again to take notice that they are given up."""


@asynccontextmanager
async def listening(application: web.Application, host: str, port: int, limits: Limits) -> AsyncIterator[int]:
    """Answer requests until the context is left, which takes a few seconds at most.

    What the application does for a client is cancelled when the client leaves. Port 0 takes a free one.

    Yields:
        The port.

    Raises:
        OSError: If it cannot listen there.
    """
    loop = asyncio.get_running_loop()
    application.middlewares.append(_timed)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=_LAST_SECONDS)
    await runner.setup()
    connections: set[_Connection] = set()
    try:
        server = await loop.create_server(
            lambda: _Connection(connections, limits, runner.server, loop=loop), host, port
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()
        for connection in list(connections):
            connection.abort()


class _Connection(web.RequestHandler):
    """A connection that is refused where there are too many, and is closed when its time is up."""

    __slots__ = ("_alarm", "_connections", "limits")

    def __init__(
        self, connections: "set[_Connection]", limits: Limits, server: Any, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        # What claims to be compressed is refused, so that nothing grows while it is read.
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self.limits = limits
        self._connections = connections
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._connections) < self.limits.connections:
            self._connections.add(self)
            self.allow(self.limits.patience)
            super().connection_made(transport)
            return
        assert isinstance(transport, asyncio.WriteTransport)
        body = json.dumps({"error": f"more than {self.limits.connections} connections are open"}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        if self._alarm is not None:
            self._alarm.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        if self.transport is not None:
            self.transport.abort()

    def allow(self, seconds: float) -> None:
        """Give it so much time from now on, unless the client has left."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self in self._connections:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self.abort)


@web.middleware
async def _timed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    connection = request.protocol
    assert isinstance(connection, _Connection)
    limits = connection.limits
    connection.allow(limits.seconds + 2 * limits.patience)
    try:
        return await handler(request)
    finally:
        connection.allow(limits.seconds)  # of the answer and the next request's header
