"""HölderPO: one ratio for all tokens of a reply, a Hölder mean whose exponent may change (arXiv:2605.12058).

Its two forms differ in what is clipped: ``HoelderRatio`` the mean, ``HoelderTokens`` the tokens before it.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gigpo_lightning.algorithm.surrogates import MAX_LOG_RATIO
from gigpo_lightning.errors import check_range

Schedule = Literal["linear", "cosine", "power", "cubic"]

_WAYS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda progress, power: progress,
    "cosine": lambda progress, power: (1 - math.cos(math.pi * progress)) / 2,
    "power": lambda progress, power: progress**power,
    "cubic": lambda progress, power: (1 + (2 * progress - 1) ** 3) / 2,
}
"""The share of the way from the first exponent to the last."""


class ScheduledExponent:
    """The exponent p of a Hölder mean, from the start of the training to its end.

    Args:
        exponent: p at the start of the training, between −10 and 10.
        final_exponent: p at its end; default: the same.
        schedule: ``"linear"``; ``"cosine"``, slow at both ends; ``"power"``, the share of the training to the n-th
            power; ``"cubic"``, slow in the middle.
        power: n of ``"power"``, positive; 2 in HölderPO's code.

    Raises:
        ValueError: If an exponent or the power is out of its range, or there is no such schedule.
    """

    def __init__(
        self,
        exponent: float = 1.0,
        final_exponent: float | None = None,
        schedule: Schedule = "linear",
        power: float = 2.0,
    ) -> None:
        check_range("exponent", exponent, -10.0, 10.0)
        check_range("final_exponent", exponent if final_exponent is None else final_exponent, -10.0, 10.0)
        check_range("power", power, 1e-6)
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {get_args(Schedule)}, got {schedule!r}")
        self.exponent = exponent
        self.final_exponent = exponent if final_exponent is None else final_exponent
        self.schedule = schedule
        self.power = power

    def exponent_at(self, progress: float) -> float:
        """The exponent p when this share of the training is done.

        Raises:
            ValueError: If it changes, and nobody knows how long the training is.

        Example:
            >>> [ScheduledExponent(1.0, -1.0).exponent_at(progress) for progress in (0.0, 0.25, 1.0)]
            [1.0, 0.5, -1.0]
        """
        if self.final_exponent == self.exponent:
            return self.exponent
        if math.isnan(progress):
            raise ValueError(
                "final_exponent needs trainer.max_epochs: without a last epoch there is nothing to fall by"
            )
        return self.exponent + (self.final_exponent - self.exponent) * _WAYS[self.schedule](progress, self.power)


class HoelderRatio(ScheduledExponent):
    """One ratio for all tokens of a reply: the Hölder mean (1/T · Σ r_t^p)^(1/p) (HölderPO, its sequence form).

    p = 1 is the arithmetic mean, whose objective and gradient before clipping are those of ``TokenRatio`` averaged over
    the reply; p = 0 the geometric mean, ``SequenceRatio``. The larger p, the more the gradient gathers on the tokens
    that became likelier; the smaller, the smaller its variance. Its paper lets p fall: from 2 to −1 for mathematics,
    from 1 to −1 for ALFWorld. The mean is clipped as a whole, by the loss's surrogate.

    Args:
        exponent: p at the start of the training, between −10 and 10.
        final_exponent: p at its end; default: the same.
        schedule: ``"linear"``; ``"cosine"``, slow at both ends; ``"power"``, the share of the training to the n-th
            power; ``"cubic"``, slow in the middle.
        power: n of ``"power"``, positive; 2 in its code.

    Raises:
        ValueError: If an exponent or the power is out of its range, or there is no such schedule.
    """

    def log_ratio(
        self, log_ratio: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"], progress: float
    ) -> Float[Tensor, "B T"]:
        """The logarithm of the Hölder mean, for each token of the reply."""
        return log_hoelder_mean(log_ratio, action_mask, self.exponent_at(progress))


class HoelderTokens(ScheduledExponent):
    """A·(1/T · Σ c_t^p)^(1/p), where c_t is the token's own clipped ratio (HölderPO, its token form).

    Each token is clipped where clipping lowers the objective, min(r, clip(r)) for A > 0 and max(r, clip(r)) for A < 0;
    nothing is clipped after the mean. A is the mean of the reply's advantages. It takes the tokens' own ratios: the
    loss's ``ratio`` stays ``TokenRatio``.

    Args:
        exponent: p at the start of the training, between −10 and 10.
        final_exponent: p at its end; default: the same.
        schedule: ``"linear"``; ``"cosine"``, slow at both ends; ``"power"``, the share of the training to the n-th
            power; ``"cubic"``, slow in the middle.
        power: n of ``"power"``, positive; 2 in its code.

    Raises:
        ValueError: If an exponent or the power is out of its range, or there is no such schedule.
    """

    def objective(
        self,
        log_ratio: Float[Tensor, "B T"],
        advantage: Float[Tensor, "B T"],
        action_mask: Bool[Tensor, "B T"],
        clip_low: float | Float[Tensor, "B 1"],
        clip_high: float | Float[Tensor, "B 1"],
        progress: float,
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """The reply's objective, for each of its tokens; and the tokens whose own ratio was clipped."""
        low = (1 - torch.as_tensor(clip_low).to(log_ratio)).clamp(min=0.0).log()  # -inf: no bound
        high = (1 + torch.as_tensor(clip_high).to(log_ratio)).log()
        of_reply = _mean(advantage, action_mask)
        clipped = torch.maximum(torch.minimum(log_ratio, high), low)
        chosen = torch.where(of_reply > 0, torch.minimum(log_ratio, clipped), torch.maximum(log_ratio, clipped))
        mean = log_hoelder_mean(chosen, action_mask, self.exponent_at(progress))
        decided = (chosen != log_ratio) & action_mask & (of_reply != 0)
        return of_reply * mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), decided


def log_hoelder_mean(
    log_ratio: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"], p: float
) -> Float[Tensor, "B T"]:
    """The logarithm of (1/T · Σ r_t^p)^(1/p) over the tokens of each reply, for p = 0 the mean of log r_t.

    Args:
        log_ratio: log r_t, 0 off the mask, ``(B, T)``.
        action_mask: True on tokens that count, ``(B, T)``.
        p: The exponent.

    Returns:
        The reply's mean, for each of its tokens, ``(B, T)``.
    """
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


def _mean(values: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B 1"]:
    """The mean over each reply's tokens, ``(B, 1)``; what is off the mask is 0."""
    return values.sum(1, keepdim=True) / action_mask.sum(1, keepdim=True).clamp(min=1)
