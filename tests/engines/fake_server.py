"""A stand-in for a vLLM server that misbehaves to order, and answers in milliseconds."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import torch
from aiohttp import web
from safetensors.torch import load_file

from gigpo_lightning.engines.weight_proof import show_tensors, to_json

ARCHITECTURE = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 63,
}
INFO = {
    "protocol": 2,
    "architecture": ARCHITECTURE,
    "max_model_len": 512,
    "logprobs_mode": "processed_logprobs",
    "weight_transfer": "folder",
    "world_size": 1,
    "max_lora_rank": 0,
}


class FakeServer:
    """Listens on loopback, in a thread of its own.

    Args:
        fault: Called with the path and how often it has been asked for, from 1; what it returns is done instead of
            answering: a status is answered, seconds are waited, "drop" closes the connection, None is no fault.
    """

    def __init__(self, fault: Callable[[str, int], object] = lambda path, count: None, **info: object) -> None:
        self.fault = fault
        self.info = INFO | info
        self.asked: Counter[str] = Counter()
        self.label = "default"
        self.weights: dict[str, torch.Tensor] = {}
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.updating = False
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        unfinished = asyncio.all_tasks() - {asyncio.current_task()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/inference/gigpo")
        self.asked[path] += 1
        self.headers.append(dict(request.headers))
        fault = self.fault(path, self.asked[path])
        if fault == "drop":
            request.transport.close()
        elif isinstance(fault, int):
            return web.json_response({"error": "to order"}, status=fault)
        elif isinstance(fault, float):
            await asyncio.sleep(fault)
        payload = await request.json() if request.can_read_body else None
        if path == "/update_weights" and "give_up" in payload["update_info"]:
            self.updating = False
            return web.json_response({"error": "the weight update was given up"}, status=500)
        return web.json_response(getattr(self, "_" + path.split("/")[-1], lambda payload: {})(payload))

    def _info(self, payload) -> dict:
        return self.info

    def _start_weight_update(self, payload) -> dict:
        self.updating = True
        return {}

    def _update_weights(self, payload) -> dict:
        self.weights |= load_file(payload["update_info"]["file"])
        return {}

    def _finish_weight_update(self, payload) -> dict:
        self.updating = False
        self.label = payload["weight_version"]
        return {}

    def _show_weights(self, payload) -> dict:
        tensors = {name: self.weights.get(name, torch.zeros(shape)) for name, shape in payload["shapes"].items()}
        return {"workers": [to_json(show_tensors(tensors, tensors, payload["seed"]))]}

    def _generate(self, payload) -> dict:
        self.requests.append(payload)
        choice = {
            "token_ids": [3, 4, 2],
            "finish_reason": "stop",
            "logprobs": {"content": [{"logprob": -1.0}] * 3},
            "weight_versions": [{"version": self.label, "start": 0, "end": 3}],
        }
        return {"choices": [choice]}
