"""What programs of the tests import; ``tests.forked`` makes forks of a process that has it."""

import contextlib
import importlib

from gigpo_lightning.engines.vllm import _import_vllm

OURS = ("gigpo_lightning.cli", "gigpo_lightning.engines.transformers", "callbacks", "datamodules", "modules")
LIBRARIES = (
    "lightning.pytorch.loggers",
    "omegaconf",
    "torch.utils.tensorboard",
    "transformers.models.qwen2.modeling_qwen2",
)
OF_VLLM = (
    "entrypoints.llm",
    "model_executor.layers.quantization.online.base",
    "model_executor.models.qwen2",
    "v1.engine.llm_engine",
    "v1.worker.cpu_worker",
)

for name in (*OURS, *LIBRARIES):
    importlib.import_module(name)
with contextlib.suppress(ImportError):
    _import_vllm()
    for name in OF_VLLM:
        importlib.import_module(f"vllm.{name}")
