"""Log-probabilities and entropies of chosen tokens, from hidden states; never all logits at once.

Shape letters: A = tokens, H = width of the hidden states, V = size of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 25  # 128 MiB of float32 logits: enough for a GPU's matrix products, little beside the model


def token_logprobs(
    hidden: Float[Tensor, "A H"],
    weight: Float[Tensor, "V H"],
    token_ids: Int[Tensor, " A"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
    """Log-probability of each token under the softmax of its logits, and that softmax's entropy.

    Logits are made a chunk of tokens at a time, and made again in the backward pass: of ``A · V`` numbers no more than
    a chunk ever exists. The matrix product takes the type of its inputs, or autocast's; the rest is float32.

    Args:
        hidden: States that predict the tokens, ``(A, H)``.
        weight: Of the output layer, ``(V, H)``.
        token_ids: The tokens, ``(A,)``.
        bias: Of the output layer, ``(V,)``.
        temperature: Logits are divided by it.

    Returns:
        Log-probabilities and entropies in nats, float32, ``(A,)`` each.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    apply: Callable[..., tuple[Tensor, Tensor]] = _TokenLogprobs.apply
    with torch.autocast(device, enabled=False):  # it would take the entropy's dot product, too
        return apply(hidden, weight.to(hidden.dtype), bias, token_ids, temperature)


class _TokenLogprobs(torch.autograd.Function):
    """The chunks; with l the log-softmax, p = exp(l) and h the entropy, ∂l_t = 1_t - p and ∂h = -p · (l + h)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        logprobs, entropy, log_norm = (torch.empty(len(hidden), device=hidden.device) for _ in range(3))
        for part in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[part], weight, bias, temperature)
            log_norm[part] = torch.logsumexp(logits, dim=-1)
            logprobs[part] = logits.gather(-1, token_ids[part].unsqueeze(-1)).squeeze(-1) - log_norm[part]
            entropy[part] = log_norm[part] - torch.linalg.vecdot(torch.softmax(logits, dim=-1), logits)
        ctx.save_for_backward(hidden, weight, bias, token_ids, log_norm, entropy)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, token_ids, log_norm, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(log_norm)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # In float32 whatever the weight's type: a sum over chunks in bfloat16 would lose the small ones.
        grad_weight = torch.zeros(weight.shape, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(len(weight), device=weight.device) if wants_bias else None
        for part in _chunks(len(hidden), len(weight)):
            log_softmax = _logits(hidden[part], weight, bias, ctx.temperature).sub_(log_norm[part].unsqueeze(-1))
            softmax, of_chosen = log_softmax.exp(), grad_logprobs[part].unsqueeze(-1)
            if grad_entropy is None:
                grad = softmax.mul_(-of_chosen)
            else:
                log_softmax.add_(entropy[part].unsqueeze(-1)).mul_(-grad_entropy[part].unsqueeze(-1)).sub_(of_chosen)
                grad = softmax.mul_(log_softmax)
            grad.scatter_add_(-1, token_ids[part].unsqueeze(-1), of_chosen).div_(ctx.temperature)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _chunks(length: int, vocabulary: int) -> list[slice]:
    """Slices of tokens whose logits are a chunk each."""
    size = max(1, _CHUNK_ELEMENTS // vocabulary)
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Fresh float32 logits of one chunk; safe to modify in place."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits.float()
    return logits if temperature == 1 else logits.div_(temperature)
