"""A stand-in for a chat server: it answers by a function, misbehaves to order, and keeps what it was asked."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.engines.fake_server import FakeServer

Script = Callable[[dict[str, Any]], Any]


class ChatStandIn(FakeServer):
    """Listens on loopback, in a thread of its own; its replies are ``script(body)``.

    Args:
        script: Gives a reply's text, a whole message, or the whole answer, which has ``choices`` or ``error``.
        faults: What is done in place of the first answers, one each: a status is answered, seconds are waited, "drop"
            closes the connection, other text is answered as it is.
    """

    def __init__(self, script: Script, *faults: object, finish_reason: str = "stop", **headers: str) -> None:
        self.script = script
        self.faults = list(faults)
        self.finish_reason = finish_reason
        self.answer_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.under_way = self.most_under_way = 0
        super().__init__()

    def __enter__(self) -> "ChatStandIn":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.paths.append(request.path_qs)
        self.bodies.append(await request.json())
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            fault = self.faults.pop(0) if self.faults else None
            if fault == "drop":
                request.transport.close()
            elif isinstance(fault, int):
                said = f"to order; your key was {request.headers.get('Authorization')}"
                return web.json_response({"error": said}, status=fault, headers=self.answer_headers)
            elif isinstance(fault, float):
                await asyncio.sleep(fault)
            elif fault is not None:
                return web.Response(text=str(fault))
            said = self.script(self.bodies[-1])
        finally:
            self.under_way -= 1
        if not isinstance(said, dict):
            said = {"role": "assistant", "content": said}
        if not said.keys() & {"choices", "error"}:
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            choice = {"message": said, "finish_reason": self.finish_reason}
            said = {"model": "the-model-2026", "choices": [choice], "usage": usage}
        return web.Response(text=json.dumps(said), content_type="application/json")
