import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from gigpo_lightning.algorithm import HoelderRatio, ImportanceRatio, LossSettings, SequenceRatio, TokenRatio
from gigpo_lightning.algorithm.hoelder import Schedule
from tests.algorithm.test_losses import MASK, batch, gradient, policy_loss

F64 = torch.float64
LOG_RATIO = torch.tensor([[0.0, 0.3, -0.2, 0.5], [0.0, -0.4, 0.0, 0.0], [0.1, -0.1, 0.0, 0.0]], dtype=F64)
RATIOS = pytest.mark.parametrize(
    "ratio",
    [TokenRatio(), SequenceRatio(), SequenceRatio(normalise_by_length=False), HoelderRatio(2.0), HoelderRatio(-1.0)],
    ids=["token", "sequence", "product", "hoelder 2", "hoelder -1"],
)


def mean_of_powers(log_ratio: Tensor, p: float) -> float:
    """The Hölder mean of one reply's ratios, as its definition says."""
    ratios = log_ratio.exp()
    return float((ratios**p).mean() ** (1 / p))


def unclipped(ratio: ImportanceRatio | None) -> LossSettings:
    return LossSettings(ratio=ratio, clip_low=1.0, clip_high=1e9)


@pytest.mark.parametrize("p", [-3.0, -1.0, 0.5, 1.0, 2.0])
def test_the_hoelder_mean_by_its_definition(p: float) -> None:
    value = HoelderRatio(p).log_ratio(LOG_RATIO, MASK, 0.0).exp()
    for row, mask, mean in zip(LOG_RATIO, MASK, value, strict=True):
        assert mean[0].item() == pytest.approx(mean_of_powers(row[mask], p))


@pytest.mark.parametrize("p", [1e-3, 1e-6, 1e-9, 0.0, -1e-6])
def test_for_small_p_it_is_the_geometric_mean(p: float) -> None:
    hoelder = HoelderRatio(p).log_ratio(LOG_RATIO, MASK, 0.0)
    torch.testing.assert_close(hoelder, SequenceRatio().log_ratio(LOG_RATIO, MASK, 0.0), rtol=0, atol=abs(p) + 1e-15)


def test_at_p_1_it_is_the_token_form_averaged_over_the_reply() -> None:
    inputs = batch(spread=0.5)
    by_token, by_mean = (policy_loss(unclipped(ratio), **inputs).loss for ratio in (None, HoelderRatio(1.0)))
    torch.testing.assert_close(by_mean, by_token)
    torch.testing.assert_close(gradient(unclipped(HoelderRatio(1.0)), inputs), gradient(unclipped(None), inputs))


def test_at_p_0_the_loss_is_gspo_s() -> None:
    inputs = batch(spread=0.5)
    geometric, sequence = (gradient(LossSettings(ratio=r), inputs) for r in (HoelderRatio(0.0), SequenceRatio()))
    torch.testing.assert_close(geometric, sequence)


def test_a_sequence_is_clipped_as_a_whole() -> None:
    inputs = {**batch(spread=0.0), "advantage": torch.ones(3, dtype=F64)}
    # Ratios e^0.6, 1, 1: the first alone would be clipped, their geometric mean e^0.2 = 1.22 is, and all three with it.
    inputs["logprobs"] = inputs["old_logprobs"] + torch.tensor([[0.0, 0.6, 0.0, 0.0]], dtype=F64)
    assert not gradient(LossSettings(ratio=SequenceRatio()), inputs)[0].any()
    assert gradient(LossSettings(), inputs)[0, 2:].all()


def test_the_whole_product_is_the_ratio_of_the_reply() -> None:
    product = SequenceRatio(normalise_by_length=False).log_ratio(LOG_RATIO, MASK, 0.0)
    torch.testing.assert_close(product[0], torch.full((4,), 0.6, dtype=F64))


@RATIOS
def test_at_ratio_one_every_ratio_gives_the_direction_of_the_plain_policy_gradient(ratio: ImportanceRatio) -> None:
    inputs = batch(spread=0.0)
    ours, plain = gradient(LossSettings(ratio=ratio), inputs), gradient(LossSettings(), inputs)
    factor = MASK.sum(1, keepdim=True) if getattr(ratio, "normalise_by_length", True) is False else 1.0
    torch.testing.assert_close(ours, plain * factor)


@RATIOS
def test_the_gradient_is_the_loss_s(ratio: ImportanceRatio) -> None:
    inputs = batch(spread=0.2)

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(LossSettings(ratio=ratio), **{**inputs, "logprobs": logprobs}).loss

    assert torch.autograd.gradcheck(loss, inputs["logprobs"].clone().requires_grad_())


@RATIOS
@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_masked_tokens_have_exactly_no_gradient(ratio: ImportanceRatio, garbage: float) -> None:
    inputs = batch()
    inputs["logprobs"] = torch.where(MASK, inputs["logprobs"], garbage)
    masked = gradient(LossSettings(ratio=ratio), inputs)[~MASK]
    assert torch.equal(masked, torch.zeros_like(masked))


@RATIOS
@pytest.mark.parametrize("log_ratio", [500.0, -500.0])
def test_a_ratio_beyond_floating_point_leaves_the_gradient_finite(ratio: ImportanceRatio, log_ratio: float) -> None:
    inputs: dict[str, Any] = {
        k: v.float() if isinstance(v, Tensor) and v.dtype == F64 else v for k, v in batch().items()
    }
    inputs["old_logprobs"] = inputs["logprobs"] - log_ratio * torch.tensor([[0.0, 1.0, 0.0, -1.0]])
    assert gradient(LossSettings(ratio=ratio), inputs).isfinite().all()


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_hoelder_mean_grows_with_p(low: float, high: float) -> None:
    low, high = sorted((low, high))
    small, large = (HoelderRatio(p).log_ratio(LOG_RATIO, MASK, 0.0) for p in (low, high))
    assert (large - small >= -1e-12).all()


def test_the_exponent_falls_over_the_training() -> None:
    linear, cosine = HoelderRatio(1.0, -1.0), HoelderRatio(1.0, -1.0, schedule="cosine")
    assert [linear.exponent_at(x) for x in (0.0, 0.5, 1.0)] == [1.0, 0.0, -1.0]
    assert [cosine.exponent_at(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.0, -1.0])
    assert cosine.exponent_at(0.1) > linear.exponent_at(0.1)


@pytest.mark.parametrize(
    ("schedule", "falling", "rising"),
    [  # from 2 to -2 and back, a quarter on, as the method's code has them
        ("linear", 1.0, -1.0),  # high - (high - low)·x
        ("cosine", 2 * math.cos(math.pi / 4), -2 * math.cos(math.pi / 4)),  # middle ± half·cos(πx)
        ("power", 2 - 4 / 64, -2 + 4 / 64),  # high - (high - low)·x^3
        ("cubic", 0.25, -0.25),  # middle - half·(2x - 1)^3
    ],
)
def test_the_schedules_by_hand(schedule: Schedule, falling: float, rising: float) -> None:
    down, up = HoelderRatio(2.0, -2.0, schedule, power=3.0), HoelderRatio(-2.0, 2.0, schedule, power=3.0)
    assert [each.exponent_at(0.25) for each in (down, up)] == pytest.approx([falling, rising])
    assert [down.exponent_at(x) for x in (0.0, 1.0)] == pytest.approx([2.0, -2.0])


def test_the_power_is_a_square_by_default() -> None:
    assert HoelderRatio(2.0, -2.0, "power").exponent_at(0.5) == 1.0


def test_a_power_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="power must be >= 1e-06, got 0"):
        HoelderRatio(2.0, -2.0, "power", power=0.0)


def test_a_falling_exponent_needs_an_end() -> None:
    assert HoelderRatio(2.0).exponent_at(math.nan) == 2.0
    with pytest.raises(ValueError, match=r"final_exponent needs trainer.max_epochs"):
        HoelderRatio(2.0, -1.0).exponent_at(math.nan)


@pytest.mark.parametrize("options", [{"exponent": 11.0}, {"final_exponent": -11.0}])
def test_an_exponent_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"exponent must be in \[-10, 10\]"):
        HoelderRatio(**options)


def test_yaml_chooses_the_ratio() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=LossSettings, default=LossSettings())
    arguments = ["--loss.ratio=gigpo_lightning.algorithm.HoelderRatio", "--loss.ratio.final_exponent=-1"]
    ratio = parser.instantiate(parser.parse_args(arguments)).loss.ratio
    assert (type(ratio), ratio.exponent_at(0.5)) == (HoelderRatio, 0.0)
