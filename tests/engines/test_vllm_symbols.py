"""All of vLLM that is used, by name and signature, is in the version that is installed; what is not is named."""

import importlib
import inspect
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gigpo_lightning.engines import vllm as vllm_engine
from gigpo_lightning.engines.vllm_server.command import server_command
from gigpo_lightning.engines.vllm_server.weight_source import weight_source
from gigpo_lightning.engines.weight_stream import WeightStream
from gigpo_lightning.rollout import VLLMEngine
from tests.conftest import ROOT

pytestmark = pytest.mark.vllm

# What is used, and the arguments that it is given by name; () is given none.
USED: dict[str, tuple[str, ...]] = {
    # in process
    "vllm.LLM.collective_rpc": ("method", "args", "kwargs"),
    "vllm.LLM.reset_prefix_cache": (),
    "vllm.LLM.sleep": ("level",),
    "vllm.LLM.wake_up": (),
    "vllm.SamplingParams": (
        *(
            "temperature",
            "max_tokens",
            "seed",
            "stop_token_ids",
            "ignore_eos",
            "logprobs",
            "prompt_logprobs",
            "detokenize",
        ),
        "output_kind",
    ),
    "vllm.inputs.engine.tokens_input": ("prompt_token_ids",),
    "vllm.lora.request.LoRARequest": ("lora_name", "lora_int_id", "lora_path"),
    "vllm.platforms.current_platform.import_kernels": (),
    "vllm.platforms.current_platform.is_cpu": (),
    "vllm.sampling_params.RequestOutputKind.FINAL_ONLY": (),
    "vllm.v1.engine.llm_engine.LLMEngine.abort_request": ("request_ids",),
    "vllm.v1.engine.llm_engine.LLMEngine.add_lora": ("lora_request",),
    "vllm.v1.engine.llm_engine.LLMEngine.add_request": ("request_id", "prompt", "params", "lora_request"),
    "vllm.v1.engine.llm_engine.LLMEngine.has_unfinished_requests": (),
    "vllm.v1.engine.llm_engine.LLMEngine.remove_lora": ("lora_id",),
    "vllm.v1.engine.llm_engine.LLMEngine.step": (),
    "vllm.v1.engine.core_client.EngineCoreClient.shutdown": (),
    "vllm.v1.worker.cpu_worker.CPUWorker.reload_weights": ("weights_iterator",),
    "vllm.v1.worker.gpu_worker.Worker.reload_weights": ("weights_iterator",),
    "vllm.outputs.RequestOutput": ("request_id", "prompt_token_ids", "prompt_logprobs", "outputs", "finished"),
    "vllm.outputs.CompletionOutput": ("token_ids", "logprobs", "finish_reason"),
    # weights, read back
    "vllm.model_executor.layers.linear.ColumnParallelLinear": (),
    "vllm.model_executor.layers.linear.LinearBase": (),
    "vllm.model_executor.layers.linear.RowParallelLinear": (),
    "vllm.model_executor.layers.linear.UnquantizedLinearMethod.apply": ("layer", "x", "bias"),
    "vllm.model_executor.layers.vocab_parallel_embedding.VocabParallelEmbedding": (),
    # servers
    "vllm.v1.engine.async_llm.AsyncLLM.collective_rpc": ("method", "args"),
    "vllm.entrypoints.cli.main": (),
    "vllm.entrypoints.openai.api_server": (),
    "vllm.entrypoints.rl.online.api_router.router": (),
    "vllm.entrypoints.serve.lora.protocol.LoadLoRAAdapterRequest": ("lora_name", "lora_path"),
    "vllm.entrypoints.serve.lora.protocol.UnloadLoRAAdapterRequest": ("lora_name",),
    "vllm.distributed.weight_transfer.base.ParamMeta": ("name", "dtype", "shape"),
    "vllm.distributed.weight_transfer.base.WeightSource": (),
    "vllm.distributed.weight_transfer.base.WeightTransferEngine.parse_update_info": ("update_dict",),
    "vllm.distributed.weight_transfer.factory.WeightTransferEngineFactory.register_engine": (),
    "vllm.distributed.weight_transfer.nccl_engine.NCCLTrainerInitInfo": (
        *("rank", "master_address", "master_port", "world_size"),
    ),
    "vllm.distributed.weight_transfer.nccl_engine.NCCLTrainerWeightTransferEngine.trainer_init": ("client", "source"),
    "vllm.distributed.weight_transfer.nccl_engine.NCCLTrainerWeightTransferEngine.send_weights": (),
    "vllm.distributed.weight_transfer.nccl_engine.NCCLTrainerWeightTransferEngine.shutdown": (),
    "vllm.model_executor.model_loader.reload.initialize_layerwise_reload": (),
    "vllm.model_executor.model_loader.reload.finalize_layerwise_reload": (),
}
ROUTES = {
    *("/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update"),
    *("/pause", "/resume", "/update_weight_version"),
}


def missing(used: dict[str, tuple[str, ...]]) -> list[str]:
    """What the installed version does not have: names, and arguments as NAME(ARGUMENT)."""
    found = []
    for path, arguments in used.items():
        try:
            value = resolve(path)
        except (ImportError, AttributeError):
            found.append(path)
            continue
        found += [f"{path}({argument})" for argument in arguments if not takes(value, argument)]
    return found


def resolve(path: str) -> Any:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            value = getattr(value, name)
        return value
    raise ImportError(path)


def takes(value: Any, argument: str) -> bool:
    parameters = inspect.signature(value).parameters
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def test_what_is_used_is_there():
    assert missing(USED) == []


def test_what_is_missing_is_named():
    absent = {
        "vllm.LLM.generate_faster": (),
        "vllm.nowhere.at_all": (),
        "vllm.LLM.sleep": ("level", "depth"),
        "vllm.LLM.wake_up": (),
    }
    assert missing(absent) == ["vllm.LLM.generate_faster", "vllm.nowhere.at_all", "vllm.LLM.sleep(depth)"]


def test_every_module_of_vllm_that_the_code_names_is_looked_at():
    sources = [*(ROOT / "gigpo_lightning").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]
    groups = {"vllm.general_plugins", "vllm.endpoint_plugins", "vllm.triton_utils.importing"}  # the last is a logger
    named = {name for path in sources for name in re.findall(r'"(vllm(?:\.\w+)+)"', path.read_text())} - groups
    assert named
    assert [
        name for name in sorted(named) if not any(path.startswith(f"{name}.") or path == name for path in USED)
    ] == []


def engine_options() -> Iterable[str]:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    return inspect.signature(LLM.__init__).parameters.keys() | inspect.signature(EngineArgs).parameters.keys()


def test_weights_are_sent_in_the_way_that_is_asked_for():
    stream = WeightStream({"w": (2, 3)}, lambda: [("w", torch.ones(2, 3))], {"w": torch.bfloat16})
    source = weight_source(resolve("vllm.distributed.weight_transfer.base"))
    source.send_next(stream)
    (meta,) = source.metadata() if callable(source.metadata) else source.metadata
    assert (meta.name, meta.dtype, meta.shape) == ("w", torch.bfloat16, (2, 3))


@pytest.mark.parametrize("on_cpu", [True, False])
def test_an_engine_s_options_are_vllm_s(monkeypatch, on_cpu):
    given: dict[str, Any] = {}

    def make(model: str, **options: Any) -> Any:
        given.update(options)
        return SimpleNamespace(collective_rpc=lambda change: None)

    vllm = SimpleNamespace(
        platforms=SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: on_cpu, import_kernels=dict)),
        LLM=make,
    )
    monkeypatch.setattr(vllm_engine, "_import_vllm", lambda: vllm)
    monkeypatch.setattr(vllm_engine, "_among_ranks", lambda: {"distributed_executor_backend": "external_launcher"})
    VLLMEngine(allow_sleep=True, max_lora_rank=4).start("model")
    assert given
    assert given.keys() <= set(engine_options())


def test_a_server_s_options_are_vllm_s():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command, _ = server_command(["model"])
    ours = {word for word in command if word.startswith("--")}
    assert "--weight-transfer-config" in ours
    known = {
        option for action in make_arg_parser(FlexibleArgumentParser())._actions for option in action.option_strings
    }
    assert ours <= known


def test_a_server_has_the_routes_of_training():
    router = resolve("vllm.entrypoints.rl.online.api_router.router")
    assert {route.path for route in router.routes} >= ROUTES


def test_both_extras_install_the_version_that_is_tested():
    text = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r'"vllm(?:-cpu)?([=<>~!][^"]+)"', text)
    assert len(versions) == 2
    assert len(set(versions)) == 1
    assert versions[0].startswith("==")
