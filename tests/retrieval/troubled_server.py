"""A retrieval server on a real socket that misbehaves to order."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence

from aiohttp import web

from gigpo_lightning.retrieval import Passage, Retriever
from gigpo_lightning.retrieval.server import make_application


def echoed(query: str, rank: int) -> Passage:
    return Passage(id=f"{rank}", title=f"on {query}", text=f"{query} is\nrank {rank}", score=1 / (1 + rank))


class EchoRetriever:
    """Finds each query itself, as often as it is asked for.

    Args:
        seconds: How long a search takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        time.sleep(self.seconds)
        return [[echoed(query, rank) for rank in range(top_k)] for query in queries]


class TroubledServer:
    """Serves a retriever in a thread of its own.

    Args:
        fault: Called with how often the server has been asked, from 1; what it returns is done instead of answering: a
            status is answered, seconds are waited first, "drop" closes the connection, "cut" does so in mid-answer,
            "trickle" sends a byte from time to time, other bytes are answered as they are. None is no fault.
        port: Of loopback; 0 takes a free one.
        retriever: What it serves.
    """

    def __init__(
        self,
        fault: Callable[[int], object] = lambda count: None,
        *,
        port: int = 0,
        retriever: Retriever = EchoRetriever(),  # noqa: B008  without state
    ) -> None:
        self.fault = fault
        self.port = port
        self.retriever = retriever
        self.bodies: list[bytes] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[dict]:
        return [json.loads(body) for body in self.bodies]

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> None:
        application = make_application(self.retriever)
        application.middlewares.append(self._misbehave)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    @web.middleware
    async def _misbehave(self, request: web.Request, handler) -> web.StreamResponse:
        self.bodies.append(await request.read())
        fault = self.fault(len(self.bodies))
        if fault == "drop":
            request.transport.close()
        elif fault in ("cut", "trickle"):
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            while fault == "trickle":
                await response.write(b" ")
                await asyncio.sleep(0.02)
            await response.write(b'{"result": [')
            request.transport.close()
            return response
        elif isinstance(fault, bytes):
            return web.Response(body=fault)
        elif isinstance(fault, int):
            return web.json_response({"error": "to order"}, status=fault)
        elif isinstance(fault, float):
            await asyncio.sleep(fault)
        return await handler(request)
