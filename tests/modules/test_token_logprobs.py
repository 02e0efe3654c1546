"""Chunked log-probabilities and entropies equal those of all logits at once, and so do their gradients."""

import pytest
import torch
from torch import Tensor

from modules import token_logprobs as module
from modules.token_logprobs import token_logprobs
from tests.devices import DEVICE

TOKENS, WIDTH, VOCABULARY = 7, 5, 11


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, weights and bias of an output layer, and tokens."""
    noise = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    hidden, weight, bias = (torch.randn(shape, generator=noise).to(DEVICE, dtype).requires_grad_() for shape in shapes)
    return hidden, weight, bias, torch.randint(VOCABULARY, (TOKENS,), generator=noise).to(DEVICE)


def all_at_once(hidden: Tensor, weight: Tensor, bias: Tensor, token_ids: Tensor, temperature: float) -> list[Tensor]:
    softmax = torch.distributions.Categorical(logits=(hidden @ weight.T + bias).float() / temperature)
    return [softmax.log_prob(token_ids), softmax.entropy()]


@pytest.fixture(params=[1, 3, 100])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of so many tokens."""
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", request.param * VOCABULARY)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)], ids=["logprobs", "entropy", "both"])
def test_values_and_gradients_are_those_of_all_logits_at_once(temperature: float, shares: tuple[float, float]):
    found = []
    for function in (all_at_once, None):
        hidden, weight, bias, token_ids = inputs()
        if function is None:
            values = list(token_logprobs(hidden, weight, token_ids, bias=bias, temperature=temperature))
        else:
            values = function(hidden, weight, bias, token_ids, temperature)
        importance = torch.linspace(-1, 1, TOKENS, device=DEVICE)
        sum((share * importance * value).sum() for share, value in zip(shares, values, strict=True) if share).backward()
        found.append([*values, hidden.grad, weight.grad, bias.grad])
    torch.testing.assert_close(found[1], found[0])


def test_a_frozen_output_layer_gets_no_gradient_and_passes_it_on():
    hidden, weight, _, token_ids = inputs()
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, token_ids)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


@pytest.mark.usefixtures("chunk")
def test_a_sum_over_chunks_keeps_what_bfloat16_would_lose():
    hidden, weight, _, token_ids = inputs(torch.bfloat16)
    token_logprobs(hidden, weight, token_ids)[0].sum().backward()
    exact, exact_weight, _, _ = inputs(torch.bfloat16)
    sharp = (exact.detach().float().requires_grad_(), exact_weight.detach().float().requires_grad_())
    all_at_once(*sharp, torch.zeros(VOCABULARY, device=DEVICE), token_ids, 1.0)[0].sum().backward()
    torch.testing.assert_close(weight.grad.float(), sharp[1].grad, rtol=0.02, atol=0.02)


def test_autocast_decides_the_matrix_product_s_type_and_no_more():
    hidden, weight, _, token_ids = inputs()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        logprobs, entropy = token_logprobs(hidden, weight, token_ids)
    assert (logprobs.dtype, entropy.dtype) == (torch.float32, torch.float32)
    logprobs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    rounded = all_at_once(hidden.bfloat16(), weight.bfloat16(), torch.zeros(VOCABULARY, device=DEVICE), token_ids, 1.0)
    torch.testing.assert_close([logprobs, entropy], rounded)


def test_no_chunk_of_logits_is_kept_for_the_backward_pass():
    hidden, weight, _, token_ids = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        token_logprobs(hidden, weight, token_ids)
    assert kept
    assert all(tensor.shape != (TOKENS, VOCABULARY) for tensor in kept)
