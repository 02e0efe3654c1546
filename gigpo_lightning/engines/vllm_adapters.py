"""What has to be changed in a vLLM worker so that it takes LoRA adapters on a CPU."""

from typing import Any


def leave_head_alone(worker: Any) -> None:
    """Take vLLM's wrapper for adapters off the output layer, which no adapter of ours adapts.

    Of some models, such as Llama, vLLM wraps it as soon as adapters are allowed. On CPUs the wrapper expects one row a
    request, and breaks where a prompt is scored, which has a row a token (0.32: ``einsum(): subscript b has size 4``).
    """
    runner = worker.model_runner
    model, adapted = runner.get_model(), runner.lora_manager._adapter_manager.modules
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LogitsProcessorWithLoRA":
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.base_layer)
            for path in [path for path, wrapped in adapted.items() if wrapped is module]:
                del adapted[path]
