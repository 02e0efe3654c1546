"""What a `vllm serve` process gets from this package: the routes of training, and weights that come through a folder.

vLLM loads both by the entry points in pyproject.toml; the routes only where ``VLLM_PLUGINS`` names them, as
``gigpo-server`` does.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from gigpo_lightning.engines.vllm_server.guard import server_keys
from gigpo_lightning.engines.vllm_weights import METHOD

PREFIX = "/inference/gigpo"
"""Of the routes; ``vllm_guard`` stands before them as before all others."""

PROTOCOL = 2
"""Of what trainer and server tell each other: another number, and they do not understand each other."""

GIVE_UP = "give_up"
"""An entry of an update that ends it: no backend of vLLM's knows it, so each refuses the update and closes it."""

_LONGEST_BODY = 1 << 16
_LONGEST_NAMES = 1 << 24  # of all weights, with their shapes


class Endpoints:
    """Adds vLLM's weight-transfer routes to its server, without the dev mode that would open everything else.

    Dev mode also answers ``/collective_rpc``, which runs what it is told to. These routes pause and resume the server,
    replace its weights, and say what it serves.
    """

    name = "gigpo"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Add the routes.

        Raises:
            ValueError: If the server has no key that it should have; it then does not start.
        """
        server_keys(app.state.args)
        from vllm.entrypoints.rl.online import api_router as routes

        app.include_router(routes.router, prefix=PREFIX)
        app.add_route(f"{PREFIX}/info", _info, methods=["GET"])
        app.add_route(f"{PREFIX}/load_adapter", _load_adapter, methods=["POST"])
        app.add_route(f"{PREFIX}/show_weights", _show_weights, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keep nothing: the routes find the engine where vLLM's own do."""


@dataclass
class FolderInfo:
    """Needs no beginning: a folder is there."""


@dataclass
class FolderUpdate:
    """Part of the weights: a safetensors file that this process can read."""

    file: str


def register_folder_transfer() -> None:
    """Make ``folder`` a backend of vLLM's weight transfer: it has none for CPUs.

    vLLM calls this in each of its processes, also in those that no server runs in; the class is made when it is used.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with contextlib.suppress(ValueError):  # it was registered before
        WeightTransferEngineFactory.register_engine("folder", __name__, "FolderWeightTransferEngine")


def __getattr__(name: str) -> Any:
    if name == "FolderWeightTransferEngine":
        from vllm.distributed.weight_transfer.base import WeightTransferEngine

        return _folder_transfer(WeightTransferEngine)
    raise AttributeError(name)


def _folder_transfer(base: Any) -> Any:
    """The worker's side of the backend; its base class is vLLM's, which this module can be read without."""
    from vllm.model_executor.model_loader import reload

    class FolderWeightTransferEngine(base):  # type: ignore[misc]
        """Loads files of checkpoint tensors, one a call, into the model that runs."""

        init_info_cls = FolderInfo
        update_info_cls = FolderUpdate

        def init_transfer_engine(self, init_info: FolderInfo) -> None:
            """Nothing to agree on."""

        def start_weight_update(self) -> None:
            reload.initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            if GIVE_UP in update_info:
                self.finish_weight_update()  # layers that are waiting for their other half would break the next update
                raise ValueError("the weight update was given up")
            info = self.parse_update_info(update_info)
            folder, file = os.path.split(info.file)
            if not file.endswith(".safetensors"):
                raise ValueError(f"'file' must end in .safetensors, got {info.file!r}")
            _check_file(folder, file, "file")
            self.receive_weights(info)

        def receive_weights(self, update_info: FolderUpdate) -> None:
            self.model.load_weights(_tensors(update_info.file))

        def finish_weight_update(self) -> None:
            reload.finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            """Nothing to close."""

    return FolderWeightTransferEngine


def _tensors(file: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  not a dictionary
            # A copy: vLLM keeps tensors until a layer is whole, and the file is removed before that.
            yield name, tensors.get_tensor(name).clone()


async def _info(request: Any) -> Any:
    """What a trainer must know before it trusts a server's tokens."""
    from starlette import responses

    config = request.app.state.engine_client.vllm_config
    model, transfer = config.model_config, config.weight_transfer_config
    described = model.hf_config.to_dict()
    content = {
        "protocol": PROTOCOL,
        "architecture": {name: described.get(name) for name in ARCHITECTURE},
        "max_model_len": model.max_model_len,
        "logprobs_mode": model.logprobs_mode,
        "weight_transfer": None if transfer is None else transfer.backend,
        "max_lora_rank": 0 if config.lora_config is None else config.lora_config.max_lora_rank,
        "world_size": config.parallel_config.world_size_across_dp,
    }
    return responses.JSONResponse(content)


async def _load_adapter(request: Any) -> Any:
    """Load the adapter in a folder by a name, and none instead if the name is empty; forget all others."""
    from starlette import responses
    from vllm.entrypoints.serve.lora import protocol

    try:
        name, folder = _wanted_adapter(await _small_body(request))
    except ValueError as error:
        return responses.JSONResponse({"error": str(error)}, status_code=400)
    models = request.app.state.openai_serving_models
    others = [other for other in models.lora_requests if other != name]
    answers = [await models.unload_lora_adapter(protocol.UnloadLoRAAdapterRequest(lora_name=name)) for name in others]
    if name:
        new = protocol.LoadLoRAAdapterRequest(lora_name=name, lora_path=folder)
        answers.append(await models.load_lora_adapter(new))
    for answer in answers:
        if not isinstance(answer, str):
            return responses.JSONResponse(answer.model_dump(), status_code=500)
    return responses.JSONResponse({})


async def _show_weights(request: Any) -> Any:
    """What each worker holds of some tensors, and its checksums."""
    from starlette import responses

    try:
        shapes, seed, name = _wanted_weights(await _small_body(request, _LONGEST_NAMES))
        adapter = request.app.state.openai_serving_models.lora_requests[name].lora_int_id if name else None
    except (ValueError, KeyError) as error:
        return responses.JSONResponse({"error": str(error)}, status_code=400)
    workers = await request.app.state.engine_client.collective_rpc(METHOD, args=(shapes, seed, adapter))
    return responses.JSONResponse({"workers": workers})


def _wanted_weights(body: bytes) -> tuple[dict[str, list[int]], int | None, str]:
    """Read whose checksums are wanted: shapes by names, a seed or none, and the adapter's name or none."""
    wanted = _json_object(body)
    shapes, seed, name = (wanted.get(key) for key in ("shapes", "seed", "adapter"))
    if not isinstance(shapes, dict) or not all(
        isinstance(shape, list) and all(type(size) is int for size in shape) for shape in shapes.values()
    ):
        raise ValueError("a request must be a JSON object with 'shapes', an object of lists of integers")
    if not (seed is None or type(seed) is int) or not isinstance(name, str):
        raise ValueError("a request must have 'seed', an integer or null, and 'adapter', a string")
    return shapes, seed, name


async def _small_body(request: Any, longest: int = _LONGEST_BODY) -> bytes:
    """A request's body."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > longest:
            raise ValueError(f"a request must be at most {longest} bytes long, got more")
    return body


def _wanted_adapter(body: bytes) -> tuple[str, str]:
    """Read which adapter is wanted: its name and its folder.

    vLLM would look for a folder that is not there on the hub, and would unpickle weights in another format.
    """
    wanted = _json_object(body)
    if not all(isinstance(wanted.get(key), str) for key in ("name", "folder")):
        raise ValueError("a request must be a JSON object with 'name' and 'folder', two strings")
    name, folder = wanted["name"], wanted["folder"]
    if name:
        _check_file(folder, "adapter_model.safetensors", "folder")
        _check_file(folder, "adapter_config.json", "folder")
    return name, folder


def _json_object(body: bytes) -> dict[str, Any]:
    """Read a body; what is no object has no entries."""
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a request must be JSON: {error}") from error
    return wanted if isinstance(wanted, dict) else {}


def _check_file(folder: str, file: str, name: str) -> None:
    """Refuse a path that is relative or has not the file in it."""
    if "\0" in folder or not os.path.isabs(folder) or not os.path.isfile(os.path.join(folder, file)):
        raise ValueError(f"{name!r} must be an absolute path of this machine with {file} in it, got {folder[:200]!r}")


ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Entries of a model's configuration that trainer and server must agree on."""
