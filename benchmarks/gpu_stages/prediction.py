"""The peak of an update's memory as the project predicts it: the one place that knows the core's names for it."""

import importlib
from typing import Any

from gpu_stages.lines import installed


def predicted(config: Any, strategy: str, tokens: int, mask_length: int = 0) -> dict[str, Any]:
    """Memory that torch should have allocated at the peak of an update, and its parts, in GiB.

    Args:
        config: Transformers' config of the model.
        strategy: Lightning's name.
        tokens: Of the largest micro-batch.
        mask_length: Longest row, where attention is given a mask; 0 without one.
    """
    if not installed("gigpo_lightning.memory"):
        return {}
    memory = importlib.import_module("gigpo_lightning.memory")
    training = memory.Training(
        strategy=strategy, weight_type="float32", reference=True, micro_batch_tokens=tokens, mask_length=mask_length
    )
    parts = memory.update_memory(memory.ModelShape.from_config(config.to_dict()), training)
    return {"predicted_gib": float(sum(parts.values())), "predicted_parts": parts}
