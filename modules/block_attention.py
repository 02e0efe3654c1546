"""Attention over token trees on a CPU: block by block, each with the tokens that some query of it may attend to.

A dense mask of a row costs the row's square, although a token of a tree attends to little of the row. FlexAttention
leaves out what nothing attends to, but has no backward pass on CPUs. Softmax is computed again in the backward pass,
from its normalizer, as FlashAttention does (arXiv:2205.14135, Algorithm 4 of its appendix).

Shape letters: B = rows, T = tokens of a row, D = width of a head; Q, K = queries and keys of a block, G = query heads
of a key head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

_QUERIES = 64  # of a block: so many that matrix products are quick, so few that little is computed in vain


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Some successive queries of a row.

    Attributes:
        row: The row.
        queries: Their places in it.
        keys: Places that one of them may attend to, ``(K,)``.
        hidden: True where a query may not attend to a key, ``(Q, K)``.
    """

    row: int
    queries: slice
    keys: Int[Tensor, " K"]
    hidden: Bool[Tensor, "Q K"]


def blocks_of(until: Int[Tensor, "B T"]) -> list[_Block]:
    """Cut rows of token trees into blocks.

    Args:
        until: As ``TokenBatch`` has it.
    """
    made = []
    for row, ends in enumerate(until):
        for begin in range(0, len(ends), _QUERIES):
            end = min(begin + _QUERIES, len(ends))
            keys = torch.cat([(ends[:begin] > begin).nonzero().flatten(), torch.arange(begin, end)])
            here = torch.arange(begin, end).unsqueeze(1)
            hidden = (keys > here) | (ends[keys] <= here)
            made.append(_Block(row=row, queries=slice(begin, end), keys=keys, hidden=hidden))
    return made


def block_attention(
    module: Any,
    query: Float[Tensor, "B _ T D"],
    key: Float[Tensor, "B _ T D"],
    value: Float[Tensor, "B _ T _"],
    attention_mask: Int[Tensor, "B 1 1 T"],
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as Transformers calls it, with ``until`` in the place of the mask.

    Args:
        module: The layer that calls.
        query: Queries of all heads.
        key: Keys; several query heads may share one of their heads.
        value: Values.
        attention_mask: ``until`` of a ``TokenBatch``.
        scaling: Of the scores; default: one over the root of D.
        more: What other implementations take.

    Returns:
        The result, ``(B, T, heads, D)``, and no weights.
    """
    if attention_mask not in _BLOCKS:  # once a batch: all layers are given the same tensor
        _BLOCKS[attention_mask] = blocks_of(attention_mask[:, 0, 0])
    apply: Callable[..., Tensor] = _BlockAttention.apply
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return apply(query, key, value, _BLOCKS[attention_mask], scale).transpose(1, 2), None


_BLOCKS = WeakIdKeyDictionary()


class _BlockAttention(torch.autograd.Function):
    """The blocks; with P the softmax of the scores S, O = P·V, and δ = Σ dO·O: dV = Pᵀ·dO, dS = P·(dO·Vᵀ - δ)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[_Block], scale: float) -> Tensor:
        out = query.new_empty(*query.shape[:3], value.shape[3])
        log_norm = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
        for block, queries, keys, values in _parts(blocks, query, key, value):
            scores = _scores(queries, keys, block, scale)
            norm = torch.logsumexp(scores, dim=-1)
            weights = scores.sub_(norm.unsqueeze(-1)).exp_()
            heads = query.shape[1], -1
            out[block.row, :, block.queries] = torch.bmm(weights, values).view(*heads, value.shape[3])
            log_norm[block.row, :, block.queries] = norm.view(heads)
        ctx.save_for_backward(query, key, value, out, log_norm)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, log_norm = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros_like(each, dtype=log_norm.dtype) for each in (key, value))
        delta = (grad_out.to(log_norm.dtype) * out).sum(-1)
        for block, queries, keys, values in _parts(ctx.blocks, query, key, value):
            of_block, shared = (block.row, slice(None), block.queries), len(keys)
            grad = _by_key_head(grad_out[of_block], shared).to(log_norm.dtype)
            weights = _scores(queries, keys, block, ctx.scale).sub_(
                _by_key_head(log_norm[of_block], shared).unsqueeze(-1)
            )
            weights.exp_()
            grad_value[block.row].index_add_(1, block.keys, torch.bmm(weights.transpose(1, 2), grad))
            grad_scores = torch.bmm(grad, values.transpose(1, 2)).sub_(
                _by_key_head(delta[of_block], shared).unsqueeze(-1)
            )
            grad_scores.mul_(weights).mul_(ctx.scale)
            grad_query[of_block] = torch.bmm(grad_scores, keys).view(query.shape[1], -1, query.shape[3])
            grad_key[block.row].index_add_(1, block.keys, torch.bmm(grad_scores.transpose(1, 2), queries))
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _parts(
    blocks: list[_Block], query: Tensor, key: Tensor, value: Tensor
) -> Iterator[tuple[_Block, Tensor, Tensor, Tensor]]:
    """Each block with its queries, ``(heads of keys, G · Q, D)``, keys and values, in float32 at least."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    for block in blocks:
        keys, values = (each[block.row].index_select(1, block.keys).to(dtype) for each in (key, value))
        yield block, _by_key_head(query[block.row, :, block.queries], len(keys)).to(dtype), keys, values


def _by_key_head(states: Tensor, heads: int) -> Tensor:
    """Of all query heads, ``(heads · G, Q, ...)``, those that share a key head one below the other."""
    return states.reshape(heads, -1, *states.shape[2:])


def _scores(queries: Tensor, keys: Tensor, block: _Block, scale: float) -> Tensor:
    """Scaled scores, -inf where a query may not attend to a key, ``(heads of keys, G · Q, K)``."""
    scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)
    scores.view(len(keys), -1, *block.hidden.shape).masked_fill_(block.hidden, -torch.inf)
    return scores
