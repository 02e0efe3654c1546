"""The policy loss (Eq. 9 of arXiv:2505.10978): a surrogate, KL to a reference, entropy.

    loss = Σ over tokens of weight · (−correction · surrogate + β · KL − coefficient · entropy)

Every term is a sum over a micro-batch divided by the counts of the whole minibatch, so that the micro-batches' terms
add up to the minibatch's, however it was split. Ratios are in ``ratios.py``, surrogates in ``surrogates.py``,
corrections in ``corrections.py``.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gigpo_lightning.algorithm.corrections import ImportanceCorrection
from gigpo_lightning.algorithm.ratios import ImportanceRatio, TokenRatio
from gigpo_lightning.algorithm.surrogates import MAX_LOG_RATIO, ClippedSurrogate, Surrogate
from gigpo_lightning.errors import check_count, check_range

Aggregation = Literal["token", "step", "sequence", "trajectory"]


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class LossSettings:
    """The loss and its coefficients."""

    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low (ε of Eq. 9); between 0 and 1."""
    clip_high: float = 0.2
    """The ratio is clipped at 1 + clip_high (ε of Eq. 9); more than clip_low is clip-higher (arXiv:2503.14476)."""
    dual_clip: float | None = None
    """At least 1: a bad action's objective is never below dual_clip · A (arXiv:1912.09729, Eq. 5); 3 in common code."""
    ratio: ImportanceRatio | None = None
    """Importance ratio of a token; default: its own, ``TokenRatio()``."""
    surrogate: Surrogate | None = None
    """What ratio and advantage are worth together; default: the clip of Eq. 9, ``ClippedSurrogate(dual_clip)``."""
    importance_correction: ImportanceCorrection | None = None
    """Correction between the engine's probabilities and the trainer's; costs a forward pass. Default: none."""
    aggregation: Aggregation = "step"
    """'step' averages over a reply's tokens, then over steps (1/(N·T) of Eq. 9); 'token' over all tokens alike;
    'sequence' sums a reply's tokens, then averages over steps (arXiv:2503.20783); 'trajectory' averages over a reply's
    tokens, then over a trajectory's steps, then over trajectories."""
    kl_coefficient: float = 0.0
    """β of Eq. 9; 0 keeps no reference policy at all."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence to the reference (joschu.net/blog/kl-approx.html). As a term of a loss, k1 has no
    gradient in expectation while the policy is the sampler's: it measures, and hardly restrains."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus; not in the paper."""

    def __post_init__(self) -> None:
        check_range("clip_low", self.clip_low, 0.0, 1.0)
        for name in ("clip_high", "kl_coefficient", "entropy_coefficient"):
            check_range(name, getattr(self, name))
        if self.dual_clip is not None:
            check_range("dual_clip", self.dual_clip, 1.0)
            if self.surrogate is not None:
                raise ValueError(
                    f"dual_clip must be None with a surrogate, which clips by itself, got {self.dual_clip}"
                )
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(f"aggregation must be one of {get_args(Aggregation)}, got {self.aggregation!r}")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl_estimator must be 'k1', 'k2' or 'k3', got {self.kl_estimator!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A micro-batch's share of the minibatch's loss, and of the figures that are logged beside it.

    Only ``loss`` carries a gradient. Figures per token do not depend on the loss's aggregation.

    Attributes:
        loss: What is differentiated.
        policy: The surrogate, negated.
        kl: KL divergence to the reference, in nats per token; 0 without one.
        entropy: Entropy of the policy where it wrote, in nats per token.
        clip_fraction: Share of the tokens whose ratio was clipped.
        approximate_kl: KL divergence of the policy from the old one, KL(π_old‖π) by k3, in nats per token.
        engine_kl: KL divergence of the old policy from the engine, KL(π_engine‖π_old) by k3, in nats per token.
        correction_weight: Mean weight of the importance correction; 1 without one.
        corrected_fraction: Share of the tokens whose weight was bounded.
    """

    loss: Tensor
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    clip_fraction: Tensor
    approximate_kl: Tensor
    engine_kl: Tensor
    correction_weight: Tensor
    corrected_fraction: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """Counts of the whole minibatch without its filling rows: the loss is divided by them.

    Attributes:
        num_tokens: Tokens that the policy wrote.
        num_rows: Steps.
        num_trajectories: Trajectories; a part of one, if only part of its steps is in the minibatch.

    Raises:
        ValueError: If a count is not positive, or a whole count is below 1.
    """

    num_tokens: int
    num_rows: int
    num_trajectories: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_rows"):
            check_count(name, getattr(self, name), why="it counts the whole minibatch")
        if not self.num_trajectories > 0:
            raise ValueError(
                f"num_trajectories must be > 0, got {self.num_trajectories}: it counts the whole minibatch"
            )


def kl_estimate(
    logprobs: Float[Tensor, "B T"], ref_logprobs: Float[Tensor, "B T"], estimator: Literal["k1", "k2", "k3"]
) -> Float[Tensor, "B T"]:
    """Per-token estimate of KL(π‖π_ref) from samples of π: k1 unbiased, k2 low variance, k3 both and never negative.

    Args:
        logprobs: Of the policy, ``(B, T)``.
        ref_logprobs: Of the reference, ``(B, T)``.
        estimator: k1 = log π/π_ref; k2 = ½·(log π/π_ref)²; k3 = π_ref/π − 1 + log π/π_ref, flat beyond 20 nats.

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
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio.exp() - 1 - log_ratio


def token_weights(
    action_mask: Bool[Tensor, "B T"],
    row_weight: Float[Tensor, " B"],
    counts: BatchCounts,
    *,
    aggregation: Aggregation,
    trajectory_share: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, "B T"]:
    """Weight of each token in the loss; over all micro-batches of a minibatch they add up to 1.

        token 1/Σ|y|    step 1/(N·|y|)    sequence 1/N    trajectory 1/(M·K·|y|)

    with |y| the tokens of a reply, Σ|y| those of the minibatch, N its steps, M its trajectories, K the steps of one.
    By sequence the weights add up to the mean of |y|, so that a reply's gradient is that of its whole
    log-probability. Differs from the reference code, which averages over each micro-batch's own tokens, so that a
    micro-batch of few tokens weighs as much as a full one.

    Args:
        action_mask: True on tokens that the policy wrote, ``(B, T)``.
        row_weight: 0 for rows that only fill up, else 1, ``(B,)``.
        counts: Of the whole minibatch.
        aggregation: Which of the four. A step without tokens keeps its share, unused.
        trajectory_share: 1/K of the row's trajectory, ``(B,)``; needed by trajectory.

    Returns:
        Weights, exactly 0 off the mask and in filling rows, ``(B, T)``.

    Raises:
        ValueError: If ``trajectory_share`` is needed and missing.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> token_weights(mask, torch.ones(2), BatchCounts(num_tokens=3, num_rows=2), aggregation="step").tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    weights = action_mask.to(row_weight.dtype) * row_weight.unsqueeze(1)
    lengths = action_mask.sum(1, keepdim=True).clamp(min=1).to(weights.dtype)
    if aggregation == "trajectory":
        if trajectory_share is None:
            raise ValueError("trajectory_share must be given with aggregation='trajectory', got None")
        return weights * trajectory_share.to(weights.dtype).unsqueeze(1) / (lengths * counts.num_trajectories)
    divisor = {"token": counts.num_tokens, "step": counts.num_rows, "sequence": counts.num_rows}[aggregation]
    return weights / (lengths * divisor if aggregation == "step" else divisor)


def policy_loss(
    settings: LossSettings,
    *,
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    entropy: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None,
    advantage: Float[Tensor, "B T"] | Float[Tensor, " B"],
    action_mask: Bool[Tensor, "B T"],
    row_weight: Float[Tensor, " B"],
    counts: BatchCounts,
    engine_logprobs: Float[Tensor, "B T"] | None = None,
    trajectory_share: Float[Tensor, " B"] | None = None,
    clip_scale: Float[Tensor, " B"] | None = None,
    progress: float = 0.0,
) -> LossTerms:
    """A micro-batch's share of the loss (Eq. 9), L = Σ w·(−c·min(r·A, clip(r)·A) + β·KL − coefficient·H).

    The sum is over tokens, with their weight w, correction c and entropy H. Masked tokens and rows of weight 0 get
    exactly no gradient, whatever they hold: they are masked before the exponential, not after.

    Args:
        settings: The loss and its coefficients.
        logprobs: Of the policy, in nats, ``(B, T)``.
        old_logprobs: Of the policy before the update, in nats, ``(B, T)``: what ratios are taken to.
        entropy: Of the policy, in nats, ``(B, T)``.
        ref_logprobs: Of the reference, in nats, ``(B, T)``; None without one.
        advantage: Of each token, ``(B, T)``, or of each row for all of its tokens, ``(B,)``.
        action_mask: True on tokens that the policy wrote, ``(B, T)``.
        row_weight: 0 for rows that only fill up, else 1, ``(B,)``.
        counts: Of the whole minibatch.
        engine_logprobs: Of the engine that sampled, in nats, ``(B, T)``; default: the same as ``old_logprobs``.
        trajectory_share: One over the number of steps of the row's trajectory, ``(B,)``; for that aggregation.
        clip_scale: Multiplies both clip ranges of a row, ``(B,)``; default: 1 everywhere.
        progress: Share of the training that is done, from 0 to 1: what ratios and surrogates may be scheduled by.

    Returns:
        Sums over this micro-batch, divided by the minibatch's counts.

    Raises:
        ValueError: If something that the settings need is missing.
    """
    if settings.kl_coefficient and ref_logprobs is None:
        raise ValueError(f"ref_logprobs must be given with kl_coefficient={settings.kl_coefficient}, got None")
    row_weight = row_weight.to(logprobs.dtype)
    mask = action_mask & (row_weight > 0).unsqueeze(1)
    in_loss = token_weights(
        mask, row_weight, counts, aggregation=settings.aggregation, trajectory_share=trajectory_share
    )
    per_token = token_weights(mask, row_weight, counts, aggregation="token")

    def written(values: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return torch.where(mask, values, 0.0)

    log_ratio = written(logprobs - old_logprobs)
    of_tokens = written(advantage.to(logprobs.dtype).reshape(len(logprobs), -1).expand_as(logprobs))
    objective, clipped = _surrogate(settings, log_ratio, of_tokens, mask, clip_scale, progress)
    log_weight = written(old_logprobs - (old_logprobs if engine_logprobs is None else engine_logprobs))
    weight, bounded = _corrected(log_weight, settings.importance_correction)
    policy = -(objective * weight * in_loss).sum()
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
        nothing = torch.zeros_like(log_ratio)
        return LossTerms(
            loss=loss,
            policy=policy.detach(),
            kl=(kl * per_token).sum(),
            entropy=(entropy * per_token).sum(),
            clip_fraction=(clipped * per_token).sum(),
            approximate_kl=(kl_estimate(nothing, log_ratio, "k3") * per_token).sum(),
            engine_kl=(kl_estimate(nothing, log_weight, "k3") * per_token).sum(),
            correction_weight=(weight * per_token).sum(),
            corrected_fraction=(bounded * per_token).sum(),
        )


def _surrogate(
    settings: LossSettings,
    log_ratio: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip_scale: Float[Tensor, " B"] | None,
    progress: float,
) -> Any:
    """Objective of every token, and where clipping decided it."""
    ratio = settings.ratio or TokenRatio()
    surrogate = settings.surrogate or ClippedSurrogate(settings.dual_clip)
    scale: Any = 1.0 if clip_scale is None else clip_scale.to(log_ratio.dtype).unsqueeze(1)
    low, high = settings.clip_low * scale, settings.clip_high * scale
    return surrogate.objective(ratio.log_ratio(log_ratio, mask, progress), advantage, mask, low, high, progress)


def _corrected(
    log_weight: Float[Tensor, "B T"], correction: ImportanceCorrection | None
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The factor of a token's surrogate, c = bounded(π_old/π_engine) or 1, and where it is not π_old/π_engine."""
    if correction is None:
        return torch.ones_like(log_weight), torch.zeros_like(log_weight, dtype=torch.bool)
    whole = log_weight.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = correction.bounded(whole)
    return weight, weight != whole
