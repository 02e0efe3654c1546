"""Surrogates: PPO's clip, SAPO's gate, HölderPO's token form, and clip ranges of a row's own."""

import math
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from gigpo_lightning.algorithm import ClippedSurrogate, HoelderTokens, LossSettings, SoftGate, Surrogate
from tests.algorithm.test_losses import MASK, batch, gradient, one_token, policy_loss

F64 = torch.float64
SURROGATES = {
    "clip": ClippedSurrogate(),
    "dual clip": ClippedSurrogate(3.0),
    "gate": SoftGate(),
    "tokens 2": HoelderTokens(2.0),
    "tokens 0": HoelderTokens(0.0),
    "tokens -1": HoelderTokens(-1.0),
}
surrogates = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES.keys())


def objective(surrogate: Surrogate, ratios: list[float], advantage: float, clip: float = 0.2) -> list[float]:
    """The objective of one reply's tokens."""
    log_ratio = torch.tensor([ratios], dtype=F64).log()
    value, _ = surrogate.objective(
        log_ratio, torch.full_like(log_ratio, advantage), torch.ones_like(log_ratio, dtype=torch.bool), clip, clip, 0.0
    )
    found: list[float] = value[0].tolist()
    return found


@pytest.mark.parametrize(("ratio", "advantage", "value"), [(1, 1, 2.0), (1.5, 1, 2.48984), (1.5, -1, -2.41211)])
def test_the_soft_gate_by_hand(ratio: float, advantage: float, value: float) -> None:
    assert objective(SoftGate(), [ratio], advantage) == pytest.approx([value], abs=5e-6)


def test_the_soft_gate_clips_nothing() -> None:
    assert one_token(3.0, 1.0, surrogate=SoftGate(), clip_high=0.0).clip_fraction.item() == 0.0


@pytest.mark.parametrize(
    ("advantage", "exponent", "mean"), [(1.0, -1.0, 1.02857), (-1.0, 2.0, 1.23693), (-3.0, 2.0, 1.23693)]
)
def test_the_token_form_of_hoelderpo_by_hand(advantage: float, exponent: float, mean: float) -> None:
    values = objective(HoelderTokens(exponent), [1.5, 0.9], advantage)
    assert values == pytest.approx([advantage * mean] * 2, abs=1e-5)


@pytest.mark.parametrize(("advantage", "share"), [(1.0, 1.0), (0.0, 0.0), (-1.0, 0.0)])
def test_the_token_form_s_clip_fraction_counts_where_clipping_decided(advantage: float, share: float) -> None:
    assert one_token(1.0, advantage, surrogate=HoelderTokens()).clip_fraction.item() == share


def test_the_token_form_is_not_clipped_after_its_mean() -> None:
    assert objective(HoelderTokens(1.0), [3.0, 3.0], -1.0) == pytest.approx([-3.0, -3.0])


def test_at_p_1_and_one_advantage_a_reply_the_token_form_is_the_clipped_surrogate() -> None:
    inputs = batch(spread=0.5)
    ours, plain = (LossSettings(surrogate=each) for each in (HoelderTokens(1.0), None))
    torch.testing.assert_close(policy_loss(ours, **inputs).loss, policy_loss(plain, **inputs).loss)
    torch.testing.assert_close(gradient(ours, inputs), gradient(plain, inputs))


def test_the_exponent_of_the_token_form_follows_the_training() -> None:
    log_ratio, mask = torch.tensor([[0.1, -0.1]]), torch.ones(1, 2, dtype=torch.bool)
    scheduled, fixed = HoelderTokens(2.0, -1.0), HoelderTokens(0.5)
    (half, _), (same, _) = (
        each.objective(log_ratio, torch.ones(1, 2), mask, 0.2, 0.2, 0.5) for each in (scheduled, fixed)
    )
    torch.testing.assert_close(half, same)


def test_the_default_is_the_clip_to_the_last_bit() -> None:
    inputs: dict[str, Any] = {
        name: value.float() if isinstance(value, Tensor) and value.dtype == F64 else value
        for name, value in batch(spread=0.5).items()
    }
    for options in ({}, {"dual_clip": 1.5}):
        named = LossSettings(surrogate=ClippedSurrogate(**options))
        assert torch.equal(gradient(named, inputs), gradient(LossSettings(**options), inputs))


@surrogates
def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(surrogate: Surrogate) -> None:
    inputs = batch(spread=0.0)
    torch.testing.assert_close(
        gradient(LossSettings(surrogate=surrogate), inputs), gradient(LossSettings(), inputs), rtol=1e-6, atol=0
    )


@surrogates
def test_the_gradient_is_the_loss_s(surrogate: Surrogate) -> None:
    inputs = batch(spread=0.5)

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(LossSettings(surrogate=surrogate), **{**inputs, "logprobs": logprobs}).loss

    assert torch.autograd.gradcheck(loss, inputs["logprobs"].clone().requires_grad_())


@surrogates
@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_masked_tokens_have_exactly_no_gradient(surrogate: Surrogate, garbage: float) -> None:
    inputs = batch()
    inputs["logprobs"] = torch.where(MASK, inputs["logprobs"], garbage)
    masked = gradient(LossSettings(surrogate=surrogate), inputs)[~MASK]
    assert torch.equal(masked, torch.zeros_like(masked))


@surrogates
@pytest.mark.parametrize("log_ratio", [500.0, -500.0])
@pytest.mark.parametrize("clip_low", [0.2, 1.0])
def test_a_ratio_beyond_floating_point_leaves_the_gradient_finite(
    surrogate: Surrogate, log_ratio: float, clip_low: float
) -> None:
    inputs: dict[str, Any] = {
        name: value.float() if isinstance(value, Tensor) and value.dtype == F64 else value
        for name, value in batch().items()
    }
    inputs["old_logprobs"] = inputs["logprobs"] - log_ratio * torch.tensor([[0.0, 1.0, 0.0, -1.0]])
    assert gradient(LossSettings(surrogate=surrogate, clip_low=clip_low), inputs).isfinite().all()


@pytest.mark.parametrize("surrogate", [ClippedSurrogate(), HoelderTokens()])
@pytest.mark.parametrize(("scale", "bound"), [(1.13864, 1.22773), (0.92652, 1.18530), (1.22848, 1.24570)])
def test_a_row_s_clip_scale_multiplies_its_range(surrogate: Surrogate, scale: float, bound: float) -> None:
    """The upper bounds of the hand example of A²TGPO, and the lower ones that go with them."""
    scales = torch.tensor([scale], dtype=F64)
    for advantage, log_ratio, expected in ((1.0, 1.0, bound), (-1.0, -1.0, 2 - bound)):
        terms = policy_loss(
            LossSettings(surrogate=surrogate),
            **{**ONE, "logprobs": ONE["logprobs"] + log_ratio, "advantage": torch.tensor([advantage], dtype=F64)},
            clip_scale=scales,
        )
        assert terms.policy.item() == pytest.approx(-advantage * expected, abs=1e-5)


ONE: dict[str, Any] = batch(mask=torch.ones(1, 1, dtype=torch.bool), spread=0.0)


def test_each_row_has_its_own_clip_scale() -> None:
    inputs = {**batch(spread=0.5), "advantage": torch.ones(3, dtype=F64)}
    wide = policy_loss(LossSettings(clip_low=0.4, clip_high=0.4, aggregation="sequence"), **inputs).policy
    narrow = policy_loss(LossSettings(aggregation="sequence"), **inputs).policy
    parts = [
        policy_loss(LossSettings(aggregation="sequence"), **inputs, clip_scale=torch.tensor(scale, dtype=F64)).policy
        for scale in ([2.0, 1.0, 1.0], [1.0, 2.0, 2.0])
    ]
    torch.testing.assert_close(sum(parts), wide + narrow)
    assert wide != narrow


def test_a_clip_scale_of_one_changes_nothing() -> None:
    inputs = batch(spread=0.5)
    scaled = policy_loss(LossSettings(), **inputs, clip_scale=torch.ones(3, dtype=F64))
    assert torch.equal(scaled.loss, policy_loss(LossSettings(), **inputs).loss)


def test_a_dual_clip_beside_a_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dual_clip must be None with a surrogate, which clips by itself, got 3\.0"):
        LossSettings(dual_clip=3.0, surrogate=SoftGate())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ClippedSurrogate, {"dual_clip": 0.5}, "dual_clip must be >= 1"),
        (SoftGate, {"temperature": 0.0}, "temperature must be >= 1e-06"),
        (SoftGate, {"negative_temperature": math.nan}, "negative_temperature must be"),
        (HoelderTokens, {"exponent": 11.0}, r"exponent must be in \[-10, 10\]"),
    ],
)
def test_numbers_out_of_range_are_refused(kind: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_yaml_chooses_the_surrogate() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=LossSettings, default=LossSettings())
    arguments = ["--loss.surrogate=gigpo_lightning.algorithm.HoelderTokens", "--loss.surrogate.final_exponent=-1"]
    surrogate = parser.instantiate(parser.parse_args(arguments)).loss.surrogate
    assert (type(surrogate), surrogate.exponent_at(0.5)) == (HoelderTokens, 0.0)
