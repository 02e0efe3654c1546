"""The policy loss (Eq. 9 of arXiv:2505.10978): clipped surrogate, KL to a reference, entropy.

Every term is a sum over a micro-batch divided by the counts of the whole minibatch, so that the micro-batches' terms
add up to the minibatch's, however it was split.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MAX_LOG_RATIO = 20.0  # float32 overflows at 88, and then backward turns infinity times 0 into NaN


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class LossSettings:
    """The loss and its coefficients."""

    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low (ε of Eq. 9); between 0 and 1."""
    clip_high: float = 0.2
    """The ratio is clipped at 1 + clip_high (ε of Eq. 9)."""
    aggregation: Literal["token", "step"] = "step"
    """'step' averages over a reply's tokens, then over steps (1/(N·T) of Eq. 9); 'token' over all tokens alike."""
    kl_coefficient: float = 0.0
    """β of Eq. 9; 0 keeps no reference policy at all."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence to the reference (joschu.net/blog/kl-approx.html)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus; not in the paper."""

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must be in [0, 1], got {self.clip_low}")
        for name in ("clip_high", "kl_coefficient", "entropy_coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")
        if self.aggregation not in ("token", "step"):
            raise ValueError(f"aggregation must be 'token' or 'step', got {self.aggregation!r}")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl_estimator must be 'k1', 'k2' or 'k3', got {self.kl_estimator!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A micro-batch's share of the minibatch's loss and of what is logged beside it.

    Only ``loss`` carries a gradient. What is logged per token is so whatever the loss's aggregation.

    Attributes:
        loss: What is differentiated.
        policy: The clipped surrogate, negated.
        kl: KL divergence to the reference, in nats per token; 0 without one.
        entropy: Entropy of the policy where it wrote, in nats per token.
        clip_fraction: Share of the tokens whose ratio was clipped.
        approximate_kl: KL divergence of the policy from the sampler, KL(π_old‖π) by k3, in nats per token.
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

    Beyond 20 nats the log ratio counts as 20 and has no gradient: it is on its way to overflow.

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
    ratio = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
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
        estimator: ``"k1"``: log π/π_ref; ``"k2"``: half its square; ``"k3"``: π_ref/π - 1 + log π/π_ref, flat beyond
            20 nats.

    Returns:
        Estimates in nats, ``(B, T)``.

    Source: John Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html.

    Example:
        >>> kl_estimate(torch.tensor([[0.0]]), torch.tensor([[-0.5]]), "k1").tolist()
        [[0.5]]
    """
    log_ratio = ref_logprobs - logprobs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    log_ratio = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.exp() - 1 - log_ratio


def token_weights(
    action_mask: Bool[Tensor, "B T"],
    row_weight: Float[Tensor, " B"],
    *,
    aggregation: Literal["token", "step"],
    num_tokens: int,
    num_rows: int,
) -> Float[Tensor, "B T"]:
    """What each token counts in the loss; over all micro-batches of a minibatch they add up to 1.

    Differs from the reference code, which averages over each micro-batch's own tokens, so that a micro-batch of few
    tokens weighs as much as a full one.

    Args:
        action_mask: True on tokens that the policy wrote, ``(B, T)``.
        row_weight: 0 for rows that only fill up, else 1, ``(B,)``.
        aggregation: ``"token"``: every token of the minibatch alike; ``"step"``: every step alike, shared evenly by
            its tokens (1/(N·T) of Eq. 9). A step without tokens keeps its share, unused.
        num_tokens: Written tokens of the whole minibatch, filling rows left out.
        num_rows: Rows of the whole minibatch, filling rows left out.

    Returns:
        Weights, exactly 0 off the mask and in filling rows, ``(B, T)``.

    Raises:
        ValueError: If a count is not positive.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> token_weights(mask, torch.ones(2), aggregation="step", num_tokens=3, num_rows=2).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    for name, count in (("num_tokens", num_tokens), ("num_rows", num_rows)):
        if count < 1:
            raise ValueError(f"{name} must be >= 1, got {count}: it counts the whole minibatch")
    weights = action_mask.to(row_weight.dtype) * row_weight.unsqueeze(1)
    if aggregation == "token":
        return weights / num_tokens
    return weights / (action_mask.sum(1, keepdim=True).clamp(min=1) * num_rows)


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

    Masked tokens and rows of weight 0 get exactly no gradient, whatever they hold: they are masked before the
    exponential, not after.

    Args:
        settings: The loss and its coefficients.
        logprobs: Of the policy, in nats, ``(B, T)``.
        old_logprobs: Of the sampler, in nats, ``(B, T)``.
        entropy: Of the policy, in nats, ``(B, T)``.
        ref_logprobs: Of the reference, in nats, ``(B, T)``; None without one.
        advantage: Of each row, ``(B,)``.
        action_mask: True on tokens that the policy wrote, ``(B, T)``.
        row_weight: 0 for rows that only fill up, else 1, ``(B,)``.
        num_tokens: Written tokens of the whole minibatch, filling rows left out.
        num_rows: Rows of the whole minibatch, filling rows left out.

    Returns:
        Sums over this micro-batch, divided by the minibatch's counts.

    Raises:
        ValueError: If a count is not positive, or there is a KL coefficient and no reference.
    """
    if settings.kl_coefficient and ref_logprobs is None:
        raise ValueError(f"ref_logprobs must be given with kl_coefficient={settings.kl_coefficient}, got None")
    row_weight = row_weight.to(logprobs.dtype)
    mask = action_mask & (row_weight > 0).unsqueeze(1)
    counts = {"num_tokens": num_tokens, "num_rows": num_rows}
    in_loss = token_weights(mask, row_weight, aggregation=settings.aggregation, **counts)
    per_token = token_weights(mask, row_weight, aggregation="token", **counts)

    def written(values: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return torch.where(mask, values, 0.0)

    log_ratio = written(logprobs - old_logprobs)
    objective, clipped = clipped_surrogate(
        log_ratio,
        written(advantage.to(logprobs.dtype).unsqueeze(1).expand_as(logprobs)),
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )
    policy = -(objective * in_loss).sum()
    entropy = written(entropy)
    kl = torch.zeros_like(log_ratio)
    if ref_logprobs is not None:
        kl = kl_estimate(written(logprobs), written(ref_logprobs), settings.kl_estimator)
    loss = policy
    if settings.kl_coefficient:
        loss = loss + settings.kl_coefficient * (kl * in_loss).sum()
    if settings.entropy_coefficient:
        loss = loss - settings.entropy_coefficient * (entropy * in_loss).sum()
    with torch.no_grad():
        drift = kl_estimate(torch.zeros_like(log_ratio), log_ratio, "k3")
        return LossTerms(
            loss=loss,
            policy=policy.detach(),
            kl=(kl * per_token).sum(),
            entropy=(entropy * per_token).sum(),
            clip_fraction=(clipped * per_token).sum(),
            approximate_kl=(drift * per_token).sum(),
        )
