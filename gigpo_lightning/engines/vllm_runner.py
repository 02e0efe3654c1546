"""Which of vLLM's model runners computes: on GPUs and on CPUs vLLM samples, loads and sleeps by other code."""

from typing import Any


def model_runner(llm: Any) -> dict[str, str]:
    """The version of the model runner of a ``vllm.LLM`` in this process, ``"V1"`` or ``"V2"``, and its class."""
    (runner,) = llm.collective_rpc(lambda worker: type(worker.model_runner))
    # vllm.v1.worker.gpu_model_runner and vllm.v1.worker.gpu.model_runner, and the same for CPUs
    version = "V2" if runner.__module__.endswith(".model_runner") else "V1"
    return {"model_runner": version, "model_runner_class": f"{runner.__module__}.{runner.__name__}"}
