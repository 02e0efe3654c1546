"""Importance ratios between the policy and the one that sampled: per token or per sequence.

Each takes and gives logarithms; the clipped surrogate (Eq. 9 of arXiv:2505.10978) takes what comes out as the log ratio
of every token.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


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
