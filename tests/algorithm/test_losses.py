from dataclasses import fields
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from gigpo_lightning.algorithm.losses import (
    Aggregation,
    BatchCounts,
    LossSettings,
    LossTerms,
    kl_estimate,
    policy_loss,
    token_weights,
)
from gigpo_lightning.algorithm.surrogates import clipped_surrogate

F64 = torch.float64
TERMS = tuple(field.name for field in fields(LossTerms))
AGGREGATION = pytest.mark.parametrize("aggregation", get_args(Aggregation))
ONES, COUNTS = torch.ones(3, dtype=F64), BatchCounts(num_tokens=6, num_rows=3, num_trajectories=2.0)
MASK = torch.tensor([[False, True, True, True], [False, True, False, False], [True, True, False, False]])


def batch(seed: int = 0, mask: Tensor = MASK, spread: float = 0.3) -> dict[str, Any]:
    """A float64 micro-batch with random numbers everywhere, off the mask too."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=F64)

    rows, tokens = mask.shape
    old = -normal(rows, tokens).abs() - 0.1
    return {
        "logprobs": old + spread * normal(rows, tokens),
        "old_logprobs": old,
        "entropy": normal(rows, tokens).abs(),
        "ref_logprobs": old + spread * normal(rows, tokens),
        "advantage": normal(rows),
        "action_mask": mask,
        "row_weight": torch.ones(rows, dtype=F64),
        "counts": BatchCounts(num_tokens=int(mask.sum()), num_rows=rows, num_trajectories=rows / 2),
        "trajectory_share": torch.full((rows,), 0.5, dtype=F64),
    }


def one_token(log_ratio: float, advantage: float, **settings: Any) -> LossTerms:
    """The terms of a single token."""
    return policy_loss(
        LossSettings(**settings),
        logprobs=torch.tensor([[log_ratio - 1]], dtype=F64),
        old_logprobs=torch.tensor([[-1.0]], dtype=F64),
        entropy=torch.zeros(1, 1, dtype=F64),
        ref_logprobs=None,
        advantage=torch.tensor([advantage], dtype=F64),
        action_mask=torch.ones(1, 1, dtype=torch.bool),
        row_weight=torch.ones(1, dtype=F64),
        counts=BatchCounts(num_tokens=1, num_rows=1),
    )


def gradient(settings: LossSettings, inputs: dict[str, Any]) -> Tensor:
    """The loss's gradient with respect to the policy's log-probabilities."""
    logprobs = inputs["logprobs"].clone().requires_grad_()
    policy_loss(settings, **{**inputs, "logprobs": logprobs}).loss.backward()  # type: ignore[no-untyped-call]
    assert isinstance(logprobs.grad, Tensor)
    return logprobs.grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.1, 2.0, 2.2),  # inside the clip range
        (1.5, 2.0, 2.6),  # a good action's ratio counts up to 1.3
        (0.5, 2.0, 1.0),  # and in full where it fell
        (0.5, -2.0, -1.6),  # a bad action's ratio counts down to 0.8
        (1.5, -2.0, -3.0),  # and in full where it rose
    ],
)
def test_the_clipped_surrogate_by_hand(ratio: float, advantage: float, objective: float) -> None:
    log_ratio = torch.tensor([[ratio]], dtype=F64).log()
    value, _ = clipped_surrogate(log_ratio, torch.tensor([[advantage]], dtype=F64), clip_low=0.2, clip_high=0.3)
    assert value.item() == pytest.approx(objective)


@pytest.mark.parametrize(("ratio", "objective"), [(0.5, -0.8), (1.5, -1.5), (5.0, -3.0)])
def test_a_dual_clip_bounds_what_a_bad_action_costs_by_hand(ratio: float, objective: float) -> None:
    log_ratio, bad = torch.tensor([[ratio]], dtype=F64).log(), -torch.ones(1, 1, dtype=F64)
    value, clipped = clipped_surrogate(log_ratio, bad, dual_clip=3.0)
    assert value.item() == pytest.approx(objective)
    assert clipped.item() == (ratio != 1.5)


def test_a_dual_clip_leaves_good_actions_alone() -> None:
    log_ratio, good = torch.tensor([[-3.0, 3.0]]), torch.ones(1, 2)
    plain, dual = clipped_surrogate(log_ratio, good)[0], clipped_surrogate(log_ratio, good, dual_clip=1.0)[0]
    assert torch.equal(plain, dual)


def test_the_clip_fraction_counts_where_clipping_decided() -> None:
    log_ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.0]]).log()
    _, clipped = clipped_surrogate(log_ratio, torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0]]))
    assert clipped.tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize(("log_ratio", "advantage"), [(0.5, 1.0), (-0.5, -1.0)])
def test_a_clipped_token_has_no_gradient(log_ratio: float, advantage: float) -> None:
    ratio = torch.tensor([[log_ratio]], dtype=F64, requires_grad=True)
    clipped_surrogate(ratio, torch.tensor([[advantage]], dtype=F64))[0].sum().backward()  # type: ignore[no-untyped-call]
    assert ratio.grad is not None
    assert ratio.grad.item() == 0.0


@AGGREGATION
def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(aggregation: Aggregation) -> None:
    inputs = batch(spread=0.0)
    names = ("row_weight", "counts", "trajectory_share")
    weights = token_weights(MASK, aggregation=aggregation, **{name: inputs[name] for name in names})
    torch.testing.assert_close(
        gradient(LossSettings(aggregation=aggregation), inputs), -inputs["advantage"].unsqueeze(1) * weights
    )


def test_a_step_down_the_gradient_makes_a_good_action_likelier() -> None:
    inputs = {**batch(spread=0.0), "advantage": torch.ones(3, dtype=F64)}
    assert (gradient(LossSettings(), inputs)[MASK] < 0).all()


@AGGREGATION
@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
def test_the_gradient_is_the_loss_s(aggregation: Aggregation, kl_estimator: Literal["k1", "k2", "k3"]) -> None:
    settings = LossSettings(
        aggregation=aggregation,
        kl_estimator=kl_estimator,
        kl_coefficient=0.3,
        entropy_coefficient=0.2,
        clip_high=0.3,
        dual_clip=1.2,
    )
    inputs = batch(spread=0.5)
    names = ("logprobs", "entropy")

    def loss(*values: Tensor) -> Tensor:
        return policy_loss(settings, **{**inputs, **dict(zip(names, values, strict=True))}).loss

    assert torch.autograd.gradcheck(loss, [inputs[name].clone().requires_grad_() for name in names])


@pytest.mark.parametrize("garbage", [1e4, -1e4, float("inf"), float("nan")])
def test_masked_tokens_have_exactly_no_gradient_whatever_they_hold(garbage: float) -> None:
    inputs = batch()
    for name in ("logprobs", "ref_logprobs", "entropy"):
        inputs[name] = torch.where(MASK, inputs[name], garbage)
    settings = LossSettings(kl_coefficient=0.1, entropy_coefficient=0.1)
    masked = gradient(settings, inputs)[~MASK]
    assert torch.equal(masked, torch.zeros_like(masked))


def test_masked_tokens_do_not_move_the_loss() -> None:
    inputs, settings = batch(), LossSettings(kl_coefficient=0.1, entropy_coefficient=0.1)
    other: dict[str, Any] = dict(inputs)
    for name in ("logprobs", "old_logprobs", "ref_logprobs", "entropy"):
        other[name] = torch.where(MASK, inputs[name], float("nan"))
    assert torch.equal(policy_loss(settings, **other).loss, policy_loss(settings, **inputs).loss)


def with_filling_row(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same rows and one of weight 0 that holds nonsense."""
    filled = dict(inputs)
    for name in ("logprobs", "old_logprobs", "entropy", "ref_logprobs", "advantage"):
        filled[name] = torch.cat([inputs[name], torch.full_like(inputs[name][:1], float("nan"))])
    filled["action_mask"] = torch.cat([inputs["action_mask"], torch.ones_like(inputs["action_mask"][:1])])
    filled["row_weight"] = torch.cat([inputs["row_weight"], torch.zeros(1, dtype=F64)])
    filled["trajectory_share"] = torch.cat([inputs["trajectory_share"], torch.ones(1, dtype=F64)])
    return filled


@AGGREGATION
@pytest.mark.parametrize("name", TERMS)
def test_a_filling_row_moves_no_term(aggregation: Aggregation, name: str) -> None:
    inputs, settings = batch(), LossSettings(aggregation=aggregation, kl_coefficient=0.1, entropy_coefficient=0.1)
    filled = policy_loss(settings, **with_filling_row(inputs))
    torch.testing.assert_close(getattr(filled, name), getattr(policy_loss(settings, **inputs), name))


def test_a_filling_row_has_exactly_no_gradient() -> None:
    last = gradient(LossSettings(kl_coefficient=0.1), with_filling_row(batch()))[-1]
    assert torch.equal(last, torch.zeros_like(last))


@AGGREGATION
@given(seed=st.integers(0, 1000), cut=st.integers(1, 5))
def test_micro_batches_add_up_to_the_minibatch(aggregation: Aggregation, seed: int, cut: int) -> None:
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0, 0] = True
    inputs = batch(seed, mask)
    settings = LossSettings(aggregation=aggregation, kl_coefficient=0.1, entropy_coefficient=0.1)
    whole = policy_loss(settings, **inputs)

    def part(rows: slice) -> LossTerms:
        sliced: dict[str, Any] = {k: v[rows] if isinstance(v, Tensor) else v for k, v in inputs.items()}
        return policy_loss(settings, **sliced)

    parts = part(slice(0, cut)), part(slice(cut, 6))
    for name in TERMS:
        torch.testing.assert_close(getattr(parts[0], name) + getattr(parts[1], name), getattr(whole, name))


@pytest.mark.parametrize("aggregation", ["token", "step", "trajectory"])
def test_token_weights_add_up_to_one(aggregation: Aggregation) -> None:
    share = torch.tensor([0.5, 1.0, 0.5], dtype=F64)  # two steps of a trajectory of two, and one of one
    weights = token_weights(MASK, ONES, COUNTS, aggregation=aggregation, trajectory_share=share)
    assert weights.sum().item() == pytest.approx(1.0)


def test_by_step_a_long_reply_weighs_as_much_as_a_short_one() -> None:
    weights = token_weights(MASK, ONES, COUNTS, aggregation="step")
    torch.testing.assert_close(weights.sum(1), torch.full((3,), 1 / 3, dtype=F64))


def test_by_token_a_reply_weighs_as_much_as_it_has_tokens() -> None:
    weights = token_weights(MASK, ONES, COUNTS, aggregation="token")
    torch.testing.assert_close(weights.sum(1), torch.tensor([3, 1, 2], dtype=F64) / 6)


def test_by_sequence_every_token_of_a_reply_counts_whole() -> None:
    weights = token_weights(MASK, ONES, COUNTS, aggregation="sequence")
    torch.testing.assert_close(weights, MASK.double() / 3)


def test_by_trajectory_a_long_episode_weighs_as_much_as_a_short_one() -> None:
    share = torch.tensor([0.5, 0.5, 1.0], dtype=F64)  # an episode of two steps, and one of one
    weights = token_weights(MASK, ONES, COUNTS, aggregation="trajectory", trajectory_share=share)
    torch.testing.assert_close(weights.sum(1), torch.tensor([0.25, 0.25, 0.5], dtype=F64))


def test_by_trajectory_needs_the_shares() -> None:
    with pytest.raises(ValueError, match="trajectory_share must be given with aggregation='trajectory', got None"):
        token_weights(MASK, ONES, COUNTS, aggregation="trajectory")


def test_a_filling_row_weighs_nothing() -> None:
    full = torch.ones(2, 1, dtype=torch.bool)
    weights = token_weights(full, torch.tensor([1.0, 0.0]), BatchCounts(num_tokens=1, num_rows=1), aggregation="token")
    assert weights.tolist() == [[1.0], [0.0]]


def test_an_empty_reply_weighs_nothing_and_breaks_nothing() -> None:
    mask = torch.tensor([[False, False], [True, True]])
    weights = token_weights(mask, torch.ones(2), BatchCounts(num_tokens=2, num_rows=2), aggregation="step")
    assert weights.tolist() == [[0.0, 0.0], [0.25, 0.25]]


def test_no_trajectory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_trajectories must be > 0, got 0\.0"):
        BatchCounts(num_tokens=1, num_rows=1, num_trajectories=0.0)


@pytest.mark.parametrize("value", [0.9, float("nan"), float("inf")])
def test_a_dual_clip_below_one_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="dual_clip must be >= 1"):
        LossSettings(dual_clip=value)


@pytest.mark.parametrize("count", ["num_tokens", "num_rows"])
def test_a_count_of_nothing_is_refused(count: str) -> None:
    with pytest.raises(ValueError, match=f"{count} must be >= 1, got 0"):
        BatchCounts(**{"num_tokens": 1, "num_rows": 1, count: 0})


@pytest.mark.parametrize(("estimator", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", 0.10653066)])
def test_kl_estimators_by_hand(estimator: Literal["k1", "k2", "k3"], value: float) -> None:
    estimate = kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]), estimator)
    assert estimate.item() == pytest.approx(value)  # log π/π_ref = 0.5; e^-0.5 - 1 + 0.5


P, Q = torch.tensor([[0.5, 0.3, 0.2]], dtype=F64), torch.tensor([[0.2, 0.3, 0.5]], dtype=F64)
KL_P_Q = (P * (P / Q).log()).sum().item()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_expected_estimate_is_the_divergence(estimator: Literal["k1", "k3"]) -> None:
    assert (P * kl_estimate(P.log(), Q.log(), estimator)).sum().item() == pytest.approx(KL_P_Q)


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k3_is_never_negative(logprob: float, ref_logprob: float) -> None:
    estimate = kl_estimate(torch.tensor([[logprob]], dtype=F64), torch.tensor([[ref_logprob]], dtype=F64), "k3")
    assert estimate.item() >= -1e-12


def test_approximate_kl_expects_the_divergence_of_the_new_policy_from_the_sampler() -> None:
    sampled = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]])  # as often as P says
    inputs = batch(mask=torch.ones(1, 10, dtype=torch.bool))
    inputs |= {"old_logprobs": P[0][sampled].log(), "logprobs": Q[0][sampled].log()}
    assert policy_loss(LossSettings(), **inputs).approximate_kl.item() == pytest.approx(KL_P_Q)


@pytest.mark.parametrize("log_ratio", [500.0, -500.0, 1000.0])
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_a_ratio_beyond_floating_point_leaves_the_gradient_finite(log_ratio: float, advantage: float) -> None:
    inputs = batch()
    inputs["old_logprobs"] = inputs["logprobs"] - log_ratio
    inputs["ref_logprobs"] = inputs["old_logprobs"]
    inputs["advantage"] = torch.full((3,), advantage, dtype=F64)
    settings = LossSettings(kl_coefficient=0.1)
    single = {k: v.float() if isinstance(v, Tensor) and v.dtype == F64 else v for k, v in inputs.items()}
    assert gradient(settings, single).isfinite().all()


def test_the_policy_term_by_hand() -> None:
    assert one_token(0.0, 2.0).policy.item() == -2.0


def test_the_clip_range_is_the_setting_s() -> None:
    assert one_token(1.0, 1.0, clip_high=0.5).policy.item() == -1.5


def test_entropy_is_rewarded() -> None:
    inputs = batch()
    with_bonus, without = (
        policy_loss(LossSettings(entropy_coefficient=0.5), **inputs),
        policy_loss(LossSettings(), **inputs),
    )
    by_step = torch.stack([row[mask].mean() for row, mask in zip(inputs["entropy"], MASK, strict=True)]).mean()
    torch.testing.assert_close(with_bonus.loss, without.loss - 0.5 * by_step)


def test_distance_from_the_reference_is_charged() -> None:
    inputs = batch()
    charged, free = policy_loss(LossSettings(kl_coefficient=0.5), **inputs), policy_loss(LossSettings(), **inputs)
    kl = kl_estimate(inputs["logprobs"], inputs["ref_logprobs"], "k3")
    by_step = torch.stack([row[mask].mean() for row, mask in zip(kl, MASK, strict=True)]).mean()
    torch.testing.assert_close(charged.loss, free.loss + 0.5 * by_step)


@pytest.mark.parametrize("name", ["kl", "entropy"])
def test_what_is_logged_is_a_mean_over_tokens(name: str) -> None:
    inputs = batch()
    values = {"kl": kl_estimate(inputs["logprobs"], inputs["ref_logprobs"], "k3"), "entropy": inputs["entropy"]}
    torch.testing.assert_close(getattr(policy_loss(LossSettings(), **inputs), name), values[name][MASK].mean())


@pytest.mark.parametrize("name", TERMS[1:])
def test_what_is_logged_carries_no_gradient(name: str) -> None:
    inputs = batch()
    inputs["logprobs"].requires_grad_()
    assert not getattr(policy_loss(LossSettings(kl_coefficient=0.1), **inputs), name).requires_grad


def test_a_kl_coefficient_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ref_logprobs must be given with kl_coefficient=0.1"):
        policy_loss(LossSettings(kl_coefficient=0.1), **{**batch(), "ref_logprobs": None})


@pytest.mark.parametrize("name", ["clip_low", "clip_high", "kl_coefficient", "entropy_coefficient"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_coefficients_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        LossSettings(**{name: value})  # type: ignore[arg-type]


def test_yaml_sets_the_loss() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=LossSettings, default=LossSettings())
    parsed = parser.parse_args(["--loss.aggregation=token", "--loss.kl_coefficient=0.01"])
    assert parser.instantiate(parsed).loss == LossSettings(aggregation="token", kl_coefficient=0.01)


def test_every_token_may_have_an_advantage_of_its_own() -> None:
    """Two tokens of one reply, on policy: the loss is minus the mean of their own advantages."""
    zeros = torch.zeros(1, 2, dtype=F64)
    terms = policy_loss(
        LossSettings(aggregation="step"),
        logprobs=zeros,
        old_logprobs=zeros,
        entropy=zeros,
        ref_logprobs=None,
        advantage=torch.tensor([[3.0, -1.0]], dtype=F64),
        action_mask=torch.ones(1, 2, dtype=torch.bool),
        row_weight=torch.ones(1, dtype=F64),
        counts=BatchCounts(num_tokens=2, num_rows=1),
    )
    assert terms.loss.item() == -1.0
