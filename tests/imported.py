"""What a run of the command line imports; ``warm_process`` has it imported once."""

import contextlib

import gigpo_lightning.cli  # noqa: F401
from gigpo_lightning.engines.vllm import _import_vllm

with contextlib.suppress(ImportError):
    _import_vllm()
    import vllm.entrypoints.llm
    import vllm.model_executor.models.qwen2
    import vllm.v1.engine.llm_engine
    import vllm.v1.worker.cpu_worker  # noqa: F401
