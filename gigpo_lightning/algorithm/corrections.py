"""Importance correction between the engine that sampled and the trainer that learns, token by token.

An engine and a trainer with the same weights do not give quite the same probabilities: other kernels, other precision,
or weights that are some updates old. The correction weighs a token by w = π_trainer,old / π_engine, bounded, and the
surrogate's ratio is then π / π_trainer,old.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gigpo_lightning.errors import check_range


@runtime_checkable
class ImportanceCorrection(Protocol):
    """Bounds the importance weights of tokens; chosen by ``class_path``."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def bounded(self, weight: Any) -> Any:
        """What a token's surrogate is multiplied by, from its weight π_trainer,old / π_engine, ``(B, T)``."""


class NoCorrection:
    """A token's weight is 1: ratios are taken to the trainer's own probabilities, and the gap to the engine is left.

    So does verl-agent, which computes every log-probability anew before the update. Without any correction the ratio
    is π / π_engine: on policy not 1 but the noise between two kernels in bfloat16, of which clipping cuts off a part.
    """

    def bounded(self, weight: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Ones."""
        return torch.ones_like(weight)


class TruncatedCorrection:
    """Truncated importance sampling: a token's weight is min(w, cap) (Ionides 2008, doi:10.1198/106186008X320456).

    For the gap between engine and trainer it was proposed at fengyao.notion.site/off-policy-rl.

    Args:
        cap: Largest weight; at least 1, or tokens that both agree on would be cut.

    Raises:
        ValueError: If the cap is below 1.
    """

    def __init__(self, cap: float = 2.0) -> None:
        check_range("cap", cap, 1.0)
        self.cap = cap

    def bounded(self, weight: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The weight, or the cap."""
        return weight.clamp(max=self.cap)


class MaskedCorrection:
    """A token's weight is w where low ≤ w ≤ high, else 0 (IcePop, arXiv:2510.18855).

    A token on which engine and trainer disagree that much teaches nothing, whichever of them is right.

    Args:
        low: Smallest weight that counts; between 0 and 1.
        high: Largest weight that counts; at least 1.

    Raises:
        ValueError: If 1 is not between them.
    """

    def __init__(self, low: float = 0.5, high: float = 5.0) -> None:
        check_range("low", low, 0.0, 1.0)
        check_range("high", high, 1.0)
        self.low = low
        self.high = high

    def bounded(self, weight: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The weight, or 0."""
        return torch.where((weight >= self.low) & (weight <= self.high), weight, 0.0)
