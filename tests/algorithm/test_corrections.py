from typing import Any

import pytest
import torch
from torch import Tensor

from gigpo_lightning.algorithm import (
    ImportanceCorrection,
    LossSettings,
    MaskedCorrection,
    NoCorrection,
    TruncatedCorrection,
)
from gigpo_lightning.algorithm.losses import policy_loss
from tests.algorithm.test_losses import MASK, batch, gradient

F64 = torch.float64
WEIGHTS = torch.tensor([[0.1, 0.6, 1.0, 3.0]], dtype=F64)
CORRECTIONS = pytest.mark.parametrize(
    "correction", [TruncatedCorrection(), MaskedCorrection(), NoCorrection()], ids=["truncated", "masked", "none"]
)


def mismatched(spread: float = 0.4) -> dict[str, Any]:
    """A batch whose engine said something else than the trainer."""
    inputs = batch()
    draw = torch.Generator().manual_seed(7)
    inputs["engine_logprobs"] = inputs["old_logprobs"] + spread * torch.randn(3, 4, generator=draw, dtype=F64)
    return inputs


def test_truncation_by_hand() -> None:
    assert TruncatedCorrection(2.0).bounded(WEIGHTS).tolist() == [[0.1, 0.6, 1.0, 2.0]]


def test_masking_by_hand() -> None:
    assert MaskedCorrection(0.5, 2.0).bounded(WEIGHTS).tolist() == [[0.0, 0.6, 1.0, 0.0]]


def test_no_correction_leaves_the_ratio_to_the_trainer_s_own_probabilities() -> None:
    inputs = mismatched()
    plain = gradient(LossSettings(), {**inputs, "engine_logprobs": None})
    torch.testing.assert_close(gradient(LossSettings(importance_correction=NoCorrection()), inputs), plain)


def test_a_token_s_gradient_is_multiplied_by_its_bounded_weight() -> None:
    inputs = mismatched()
    plain = gradient(LossSettings(), {**inputs, "engine_logprobs": None})
    weight = (inputs["old_logprobs"] - inputs["engine_logprobs"]).exp().clamp(max=1.1)
    corrected = gradient(LossSettings(importance_correction=TruncatedCorrection(1.1)), inputs)
    torch.testing.assert_close(corrected, plain * torch.where(MASK, weight, 1.0))


@CORRECTIONS
def test_where_engine_and_trainer_agree_nothing_changes(correction: ImportanceCorrection) -> None:
    inputs = mismatched(spread=0.0)
    ours, plain = (gradient(LossSettings(importance_correction=c), inputs) for c in (correction, None))
    torch.testing.assert_close(ours, plain)


def test_without_a_correction_the_engine_s_logprobs_are_only_looked_at() -> None:
    inputs = mismatched()
    assert torch.equal(gradient(LossSettings(), inputs), gradient(LossSettings(), {**inputs, "engine_logprobs": None}))
    terms = policy_loss(LossSettings(), **inputs)
    assert terms.engine_kl > 0
    assert (terms.correction_weight.item(), terms.corrected_fraction.item()) == (pytest.approx(1.0), 0.0)


@CORRECTIONS
def test_the_gradient_is_the_loss_s(correction: ImportanceCorrection) -> None:
    inputs = mismatched()

    def loss(logprobs: Tensor) -> Tensor:
        settings = LossSettings(importance_correction=correction)
        return policy_loss(settings, **{**inputs, "logprobs": logprobs}).loss

    assert torch.autograd.gradcheck(loss, inputs["logprobs"].clone().requires_grad_())


def test_the_diagnostics_by_hand() -> None:
    inputs = batch(mask=torch.ones(1, 4, dtype=torch.bool))
    inputs["engine_logprobs"] = inputs["old_logprobs"] - WEIGHTS.log()
    terms = policy_loss(LossSettings(importance_correction=TruncatedCorrection(2.0)), **inputs)
    assert terms.correction_weight.item() == pytest.approx((0.1 + 0.6 + 1.0 + 2.0) / 4)
    assert terms.corrected_fraction.item() == 0.25
    assert terms.engine_kl.item() == pytest.approx((WEIGHTS - 1 - WEIGHTS.log()).mean().item())


def test_masked_tokens_may_hold_anything() -> None:
    inputs = mismatched()
    settings = LossSettings(importance_correction=TruncatedCorrection())
    other = {**inputs, "engine_logprobs": torch.where(MASK, inputs["engine_logprobs"], float("nan"))}
    assert torch.equal(policy_loss(settings, **other).loss, policy_loss(settings, **inputs).loss)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedCorrection(0.9), "cap must be >= 1, got 0.9"),
        (lambda: MaskedCorrection(1.1, 2.0), r"low must be in \[0, 1\], got 1.1"),
        (lambda: MaskedCorrection(0.5, 0.9), "high must be >= 1, got 0.9"),
    ],
)
def test_bounds_without_meaning_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
