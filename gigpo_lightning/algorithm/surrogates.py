"""Surrogates: what a token's ratio and its advantage are worth together, and where clipping decides.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gigpo_lightning.errors import check_range

MAX_LOG_RATIO = 20.0  # float32 overflows at 88, and then backward turns infinity times 0 into NaN


@runtime_checkable
class Surrogate(Protocol):
    """The objective of every token, to be maximised; chosen by ``class_path``."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def objective(
        self, log_ratio: Any, advantage: Any, action_mask: Any, clip_low: Any, clip_high: Any, progress: float
    ) -> Any:
        """What every token adds to the objective.

        Args:
            log_ratio: log r of each token, as the loss's ``ratio`` gives it, finite everywhere, ``(B, T)``.
            advantage: Of each token, 0 off the mask, ``(B, T)``.
            action_mask: True on tokens that count, ``(B, T)``.
            clip_low: ε_low, a number, or of each row where its credit has a ``clip_scale``, ``(B, 1)``.
            clip_high: ε_high, likewise.
            progress: Share of the training that is done, from 0 to 1; not a number where nobody knows its end.

        Returns:
            The objective, with gradient, and True where clipping decided it, ``(B, T)`` each; what they are off the
            mask does not matter, but it is finite.
        """


class ClippedSurrogate:
    """min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A): PPO's and GRPO's, Eq. 9 of arXiv:2505.10978.

    Args:
        dual_clip: c, at least 1: a bad action's objective is never below c·A (arXiv:1912.09729, Eq. 5).

    Raises:
        ValueError: If ``dual_clip`` is below 1.
    """

    def __init__(self, dual_clip: float | None = None) -> None:
        if dual_clip is not None:
            check_range("dual_clip", dual_clip, 1.0)
        self.dual_clip = dual_clip

    def objective(
        self,
        log_ratio: Float[Tensor, "B T"],
        advantage: Float[Tensor, "B T"],
        action_mask: Bool[Tensor, "B T"],
        clip_low: float | Float[Tensor, "B 1"],
        clip_high: float | Float[Tensor, "B 1"],
        progress: float,
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """As ``clipped_surrogate`` has it."""
        return clipped_surrogate(log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, dual_clip=self.dual_clip)


def clipped_surrogate(
    log_ratio: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    *,
    clip_low: float | Float[Tensor, "B 1"] = 0.2,
    clip_high: float | Float[Tensor, "B 1"] = 0.2,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Objective of a token, min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A) (Eq. 9), and where clipping decided.

    With ``dual_clip`` c it is max(c·A, that) where A < 0. Beyond 20 nats the log ratio counts as 20 and has no
    gradient: it is on its way to overflow.

    Args:
        log_ratio: log r, of the policy's probability over the sampler's, ``(B, T)``.
        advantage: Of the token's step, ``(B, T)``.
        clip_low: ε_low; of each row, ``(B, 1)``, or of all.
        clip_high: ε_high, likewise.
        dual_clip: c, at least 1.

    Returns:
        The objective, to be maximised, ``(B, T)``; and True where a clipped branch decided.

    Example:
        >>> objective, clipped = clipped_surrogate(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 2.0]]))
        >>> objective.tolist(), clipped.tolist()
        ([[2.0, 2.4000000953674316]], [[False, True]])
    """
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = ratio * advantage
    low, high = 1 - clip_low, 1 + clip_high
    clipped = torch.clamp(ratio, low, high) * advantage  # type: ignore[arg-type]
    objective, by_clip = torch.minimum(plain, clipped), clipped < plain
    if dual_clip is None:
        return objective, by_clip
    floor = torch.where(advantage < 0, dual_clip * advantage, -math.inf)
    return torch.maximum(objective, floor), by_clip | (floor > objective)
