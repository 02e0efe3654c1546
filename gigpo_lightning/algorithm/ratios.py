"""Importance ratios between the policy and the one that sampled: per token, per sequence, or in between.

Each takes and gives logarithms; the clipped surrogate (Eq. 9 of arXiv:2505.10978) takes what comes out as the log ratio
of every token.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

import math
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gigpo_lightning.errors import check_range


@runtime_checkable
class ImportanceRatio(Protocol):
    """Turns the log ratios of a reply's tokens into those that its loss uses; chosen by ``class_path``."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def log_ratio(self, log_ratio: Any, action_mask: Any, progress: float) -> Any:
        """The log ratio of every token.

        Args:
            log_ratio: log π/π_old of each token, 0 off the mask, ``(B, T)``.
            action_mask: True on tokens that count, ``(B, T)``.
            progress: Share of the training that is done, from 0 to 1; not a number where nobody knows its end.

        Returns:
            Log ratios, with gradient, ``(B, T)``; what they are off the mask does not matter, but it is finite.
        """


class TokenRatio:
    """r_t = π(token) / π_old(token), each token for itself: PPO's and GRPO's."""

    def log_ratio(
        self, log_ratio: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"], progress: float
    ) -> Float[Tensor, "B T"]:
        """As it is."""
        return log_ratio


class SequenceRatio:
    """One ratio for all tokens of a reply: that of the whole reply (GSPO, arXiv:2507.18071, Eq. 7).

    Args:
        normalise_by_length: s = (Π r_t)^(1/T), the geometric mean over the reply's tokens, as in GSPO; False takes the
            product itself, the ratio of the actions in Eq. 9 of arXiv:2505.10978, which soon leaves any clip range.
    """

    def __init__(self, normalise_by_length: bool = True) -> None:
        self.normalise_by_length = normalise_by_length

    def log_ratio(
        self, log_ratio: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"], progress: float
    ) -> Float[Tensor, "B T"]:
        """The sum or the mean over the reply, for each of its tokens."""
        total = log_ratio.sum(1, keepdim=True)
        if self.normalise_by_length:
            total = total / action_mask.sum(1, keepdim=True).clamp(min=1)
        return total.expand_as(log_ratio)


class HoelderRatio:
    """One ratio for all tokens of a reply: the Hölder mean (1/T · Σ r_t^p)^(1/p) (HölderPO, arXiv:2605.12058).

    p = 1 is the arithmetic mean, whose objective and gradient before clipping are those of ``TokenRatio`` averaged over
    the reply; p = 0 the geometric mean, ``SequenceRatio``. The larger p, the more the gradient gathers on the tokens
    that became likelier; the smaller, the smaller its variance. Its paper lets p fall: from 2 to −1 for mathematics,
    from 1 to −1 for ALFWorld.

    Args:
        exponent: p at the start of the training, between −10 and 10.
        final_exponent: p at its end; default: the same.
        schedule: ``"linear"``, or ``"cosine"``, which falls slowly at both ends.

    Raises:
        ValueError: If an exponent is out of its range.
    """

    def __init__(
        self,
        exponent: float = 1.0,
        final_exponent: float | None = None,
        schedule: Literal["linear", "cosine"] = "linear",
    ) -> None:
        check_range("exponent", exponent, -10.0, 10.0)
        check_range("final_exponent", exponent if final_exponent is None else final_exponent, -10.0, 10.0)
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be 'linear' or 'cosine', got {schedule!r}")
        self.exponent = exponent
        self.final_exponent = exponent if final_exponent is None else final_exponent
        self.schedule = schedule

    def exponent_at(self, progress: float) -> float:
        """The exponent p when this share of the training is done.

        Raises:
            ValueError: If it changes, and nobody knows how long the training is.

        Example:
            >>> [HoelderRatio(1.0, -1.0).exponent_at(progress) for progress in (0.0, 0.25, 1.0)]
            [1.0, 0.5, -1.0]
        """
        if self.final_exponent == self.exponent:
            return self.exponent
        if math.isnan(progress):
            raise ValueError(
                "final_exponent needs trainer.max_epochs: without a last epoch there is nothing to fall by"
            )
        if self.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.exponent + (self.final_exponent - self.exponent) * progress

    def log_ratio(
        self, log_ratio: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"], progress: float
    ) -> Float[Tensor, "B T"]:
        """The logarithm of the Hölder mean, for each token of the reply."""
        p = self.exponent_at(progress)
        lengths = action_mask.sum(1, keepdim=True).clamp(min=1)
        mean = log_ratio.sum(1, keepdim=True) / lengths
        if p == 0:
            return mean.expand_as(log_ratio)
        # log(1/T Σ e^(p·x)) / p, written around the mean: for small p what is left is small, not a difference of likes.
        deviation = torch.where(action_mask, p * (log_ratio - mean), 0.0)
        largest = deviation.detach().amax(1, keepdim=True).clamp(min=0.0)
        scaled = torch.expm1(deviation - largest) * action_mask
        spread = largest + torch.log1p(scaled.sum(1, keepdim=True) / lengths)
        return (mean + spread / p).expand_as(log_ratio)
