"""Where the tests of engines and modules compute: on a GPU where there is one, and how closely results agree there.

On a CPU everything is float32. On a GPU vLLM has its usual type there, bfloat16; ``GIGPO_TEST_ENGINE_TYPE`` sets
another one, and on a CPU, too.
"""

import os
from typing import Any, Literal, cast

import torch

from gigpo_lightning.rollout import RolloutEngine, TransformersEngine

_ON_GPU = torch.cuda.is_available()

DEVICE = torch.device("cuda" if _ON_GPU else "cpu")

ON_DEVICE: dict[str, Any] = {"accelerator": "gpu" if _ON_GPU else "cpu", "devices": 1}
"""Arguments of a Trainer."""

VLLM_TYPE = cast(
    "Literal['float32', 'bfloat16', 'float16']",
    os.environ.get("GIGPO_TEST_ENGINE_TYPE", "bfloat16" if _ON_GPU else "float32"),
)
"""Type of the weights of a vLLM engine."""


def is_exact(engine: RolloutEngine) -> bool:
    """Whether an engine's numbers depend on nothing but its input: in half the bits they depend on its company."""
    return isinstance(engine, TransformersEngine) or VLLM_TYPE == "float32"


def tolerance(engine: RolloutEngine) -> float:
    """How far a healthy engine's log-probabilities are from the float32 trainer's, in nats, at most."""
    return 1e-4 if is_exact(engine) else 0.25


def gradient_tolerance() -> dict[str, float]:
    """How far gradients may be apart that are sums in another order."""
    return {"rtol": 1e-3, "atol": 1e-6} if _ON_GPU else {"rtol": 1e-4, "atol": 1e-7}
