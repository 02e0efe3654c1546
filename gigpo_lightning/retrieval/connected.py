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
    door = _Door(limits)
    try:
        server = await loop.create_server(lambda: _Connection(door, runner.server, loop=loop), host, port)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()
        door.close()


class _Door:
    """Counts connections, and closes each whose time is up."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._alarms: dict[_Connection, asyncio.TimerHandle] = {}

    def enter(self, connection: "_Connection") -> bool:
        if len(self._alarms) >= self.limits.connections:
            return False
        self.allow(connection, self.limits.patience)
        return True

    def leave(self, connection: "_Connection") -> None:
        alarm = self._alarms.pop(connection, None)
        if alarm is not None:
            alarm.cancel()

    def allow(self, connection: "_Connection", seconds: float) -> None:
        """Give a connection so much time from now on."""
        self.leave(connection)
        self._alarms[connection] = asyncio.get_running_loop().call_later(seconds, connection.abort)

    def close(self) -> None:
        for connection in list(self._alarms):
            connection.abort()
            self.leave(connection)


class _Connection(web.RequestHandler):
    """A connection that is refused where there are too many, and has an end."""

    __slots__ = ("_door",)

    def __init__(self, door: _Door, server: Any, *, loop: asyncio.AbstractEventLoop) -> None:
        # What claims to be compressed is refused, so that nothing grows while it is read.
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.enter(self):
            super().connection_made(transport)
            return
        assert isinstance(transport, asyncio.WriteTransport)
        body = json.dumps({"error": f"more than {self._door.limits.connections} connections are open"}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        if self.transport is not None:
            self.transport.abort()

    def allow(self, *, request: bool) -> None:
        """Give it the time of a request, or of its answer and the next request's header."""
        limits = self._door.limits
        if self.transport is not None:  # the client may have left
            self._door.allow(self, limits.seconds + (2 * limits.patience if request else 0.0))


@web.middleware
async def _timed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    connection = request.protocol
    assert isinstance(connection, _Connection)
    connection.allow(request=True)
    try:
        return await handler(request)
    finally:
        connection.allow(request=False)
