"""Which device an engine in the trainer's own process computes on: always that of the trainer."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gigpo_lightning.errors import RunError
from gigpo_lightning.quiet import shows_everything, without_line
from gigpo_lightning.ranks import place

_SPREADING = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def check_one_device(options: Mapping[str, Any]) -> None:
    """Refuse arguments of ``vllm.LLM`` that spread it over devices: other processes could not be handed the weights.

    Raises:
        ValueError: If it would.
    """
    for name in _SPREADING:
        if options.get(name, 1) != 1:
            raise ValueError(
                f"{name} must be 1 for an engine in the trainer's own process, got {options[name]}: weights are handed "
                "over within it. For a model that one device cannot hold use VLLMServerEngine, and gigpo-server MODEL "
                "--tensor-parallel-size N"
            )


@contextlib.contextmanager
def on_this_device() -> Iterator[None]:
    """Have an engine that is made meanwhile take this process's GPU, which vLLM finds by ``LOCAL_RANK``.

    The variable is put back: launchers number a machine's processes by it, and process 0 may have device 2.

    Raises:
        RunError: If this process is alone, when vLLM takes device 0, and computes on another.
    """
    if not torch.cuda.is_available():
        yield
        return
    device = torch.cuda.current_device()
    if place()[1] == 1:
        if device != 0:
            known = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            raise RunError(
                f"VLLMEngine runs on device 0 where one process trains, but trainer.devices chose device {device}: set "
                f"CUDA_VISIBLE_DEVICES={known[device] if device < len(known) else device} and --trainer.devices 1"
            )
        yield
        return
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(device)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before


@contextlib.contextmanager
def binding_memory_quietly() -> Iterator[None]:
    """Have an engine that is made meanwhile bind a CPU's memory without a line about it on stderr.

    Compiled code writes that line, past every logger.
    """
    operators: Any = torch.ops._C
    bind = getattr(operators, "init_cpu_memory_env", None)  # of vLLM's CPU build
    if bind is None or shows_everything():
        yield
        return

    def bind_quietly(*args: Any) -> Any:
        with without_line("NUMA binding"):
            return bind(*args)

    operators.init_cpu_memory_env = bind_quietly
    try:
        yield
    finally:
        operators.init_cpu_memory_env = bind
