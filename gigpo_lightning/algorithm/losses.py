"""The policy loss: clipped surrogate, KL to a reference, entropy.

Every term is a sum over a micro-batch divided by the counts of the whole minibatch, so that the micro-batches' terms
add up to the minibatch's, however it was split.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The loss and its coefficients."""

    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low (ε of Eq. 9)."""
    clip_high: float = 0.2
    """The ratio is clipped at 1 + clip_high."""
    aggregation: Literal["token", "step"] = "step"
    """'step' averages over a reply's tokens, then over steps (1/(N·T) of Eq. 9); 'token' over all tokens alike."""
    kl_coefficient: float = 0.0
    """β of Eq. 9; 0 keeps no reference policy at all."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence to the reference (joschu.net/blog/kl-approx.html)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus; not in the paper."""

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high", "kl_coefficient", "entropy_coefficient"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.aggregation not in ("token", "step"):
            raise ValueError(f"aggregation must be 'token' or 'step', got {self.aggregation!r}")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl_estimator must be 'k1', 'k2' or 'k3', got {self.kl_estimator!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A micro-batch's share of the minibatch's loss and of what is logged beside it.

    Attributes:
        loss: What is differentiated.
        policy: The clipped surrogate, negated.
        kl: KL divergence to the reference, in nats per token; 0 without one.
        entropy: Entropy of the policy where it wrote, in nats per token.
        clip_fraction: Share of the tokens whose ratio was clipped.
        approximate_kl: KL divergence from the sampling policy (k3), in nats per token.
    """

    loss: Tensor
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    clip_fraction: Tensor
    approximate_kl: Tensor


def clipped_surrogate(
    log_ratio: Float[Tensor, "B T"], advantage: Float[Tensor, "B T"], *, clip_low: float = 0.2, clip_high: float = 0.2
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The smaller of the plain and the clipped surrogate, per token (Eq. 9), and where clipping decided.

    Args:
        log_ratio: Log of the policy's probability over the sampler's, ``(B, T)``.
        advantage: Of the token's step, ``(B, T)``.
        clip_low: The ratio is clipped at 1 - clip_low.
        clip_high: The ratio is clipped at 1 + clip_high.

    Returns:
        The objective, to be maximised, ``(B, T)``; and True where the clipped branch was the smaller.

    Example:
        >>> objective, clipped = clipped_surrogate(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 2.0]]))
        >>> objective.tolist(), clipped.tolist()
        ([[2.0, 2.4000000953674316]], [[False, True]])
    """
    ratio = log_ratio.exp()
    plain = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return torch.minimum(plain, clipped), clipped < plain


def kl_estimate(
    logprobs: Float[Tensor, "B T"], ref_logprobs: Float[Tensor, "B T"], estimator: Literal["k1", "k2", "k3"]
) -> Float[Tensor, "B T"]:
    """Per-token estimate of KL(π‖π_ref) from samples of π: k1 unbiased, k2 low variance, k3 both and never negative.

    Args:
        logprobs: Of the policy, ``(B, T)``.
        ref_logprobs: Of the reference, ``(B, T)``.
        estimator: Which.

    Source: John Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html.
    """
    log_ratio = ref_logprobs - logprobs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return log_ratio.exp() - 1 - log_ratio


def policy_loss(
    settings: LossSettings,
    *,
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    entropy: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None,
    advantage: Float[Tensor, " B"],
    action_mask: Bool[Tensor, "B T"],
    row_weight: Float[Tensor, " B"],
    num_tokens: int,
    num_rows: int,
) -> LossTerms:
    """A micro-batch's share of the loss (Eq. 9).

    Masked tokens and rows of weight 0 get exactly no gradient: they are masked before the exponential, not after.

    Args:
        settings: The loss and its coefficients.
        logprobs: Of the policy, ``(B, T)``.
        old_logprobs: Of the sampler, ``(B, T)``.
        entropy: Of the policy, ``(B, T)``.
        ref_logprobs: Of the reference; None without one.
        advantage: Of each row, ``(B,)``.
        action_mask: True on tokens that the policy wrote, ``(B, T)``.
        row_weight: 0 for padding rows, else 1, ``(B,)``.
        num_tokens: Written tokens of the whole minibatch, padding rows left out.
        num_rows: Rows of the whole minibatch, padding rows left out.

    Returns:
        Sums over this micro-batch, divided by the minibatch's counts.
    """
    mask = action_mask & (row_weight > 0).unsqueeze(1)
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    per_token = advantage.to(logprobs.dtype).unsqueeze(1).expand_as(logprobs)
    objective, clipped = clipped_surrogate(
        log_ratio, per_token, clip_low=settings.clip_low, clip_high=settings.clip_high
    )
    if settings.aggregation == "token":
        weight = mask / num_tokens
    else:
        weight = mask / (mask.sum(1, keepdim=True).clamp(min=1) * num_rows)
    share = mask / num_tokens
    zero = torch.zeros_like(logprobs)
    kl = zero
    if ref_logprobs is not None:
        kl = kl_estimate(torch.where(mask, logprobs, 0.0), torch.where(mask, ref_logprobs, 0.0), settings.kl_estimator)
    masked_entropy = torch.where(mask, entropy, 0.0)
    policy = -(objective * weight).sum()
    loss = policy
    if ref_logprobs is not None:
        loss = loss + settings.kl_coefficient * (kl * weight).sum()
    if settings.entropy_coefficient:
        loss = loss - settings.entropy_coefficient * (masked_entropy * weight).sum()
    drift = kl_estimate(torch.zeros_like(log_ratio), -log_ratio.detach(), "k3")
    return LossTerms(
        loss=loss,
        policy=policy.detach(),
        kl=(kl * share).sum().detach(),
        entropy=(masked_entropy * share).sum().detach(),
        clip_fraction=(clipped * share).sum().detach(),
        approximate_kl=(drift * share).sum(),
    )
