"""Attention over token trees on a CPU: block by block, each with the tokens that some query of it may attend to.

A dense mask of a row costs the row's square, although a token of a tree attends to little of the row. FlexAttention
leaves out what nothing attends to, but has no backward pass on CPUs. Softmax is computed again in the backward pass,
from its normalizer, as FlashAttention does (arXiv:2205.14135, Algorithm 4 of its appendix).

Shape letters: B = rows, T = tokens of a row, D = width of a head; N = blocks that are computed together, Q, K = queries
and keys of a block; H = heads of keys, G = heads of queries that share one of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

_QUERIES = 64  # of a block: so many that matrix products are quick, so few that little is computed in vain
_PAIRS = 1 << 17
_ROUND = 64  # keys of blocks that are computed together are rounded up to a multiple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Successive queries of rows, in blocks of one size.

    Attributes:
        queries: Their places among all ``B · T``, ``(N, Q)``.
        keys: Places that one of a block's queries may attend to, filled up by others, ``(N, K)``.
        hidden: True where a query may not attend to a key, ``(N, Q, K)``.
    """

    queries: Int[Tensor, "N Q"]
    keys: Int[Tensor, "N K"]
    hidden: Bool[Tensor, "N Q K"]


def blocks_of(until: Int[Tensor, "B T"]) -> list[Blocks]:
    """Cut rows of token trees into blocks, and put those of like size together.

    Args:
        until: As ``TokenBatch`` has it.
    """
    length = until.shape[1]
    found: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for row, ends in enumerate(until):
        for begin in range(0, length, _QUERIES):
            queries = torch.arange(begin, min(begin + _QUERIES, length))
            keys = torch.cat([(ends[:begin] > begin).nonzero().flatten(), queries])
            size = -(-len(keys) // _ROUND) * _ROUND
            keys = torch.nn.functional.pad(keys, (0, size - len(keys)), value=length)  # behind every query
            found.setdefault((len(queries), size), []).append((queries + row * length, keys + row * length))
    flat = torch.cat([(until + torch.arange(len(until)).unsqueeze(1) * length).flatten(), until.new_zeros(1)])
    return [
        _together(blocks[first : first + number], flat)
        for (queries, size), blocks in found.items()
        for number in [max(1, _PAIRS // (queries * size))]
        for first in range(0, len(blocks), number)
    ]


def _together(blocks: Sequence[tuple[Tensor, Tensor]], until: Int[Tensor, " places"]) -> Blocks:
    """Blocks of one size; ``until`` is of all places, of all rows."""
    queries, keys = (torch.stack(each) for each in zip(*blocks, strict=True))
    here, there = queries.unsqueeze(2), keys.unsqueeze(1)
    hidden = (there > here) | (until[there] <= here)
    return Blocks(queries=queries, keys=keys.clamp(max=len(until) - 2), hidden=hidden)


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
    rows, heads, length, _ = query.shape
    apply: Callable[..., Tensor] = _BlockAttention.apply
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    states = (each.transpose(0, 1).flatten(1, 2) for each in (query, key, value))  # heads, places of all rows, D
    out = apply(*states, _BLOCKS[attention_mask], scale)
    return out.view(heads, rows, length, -1).permute(1, 2, 0, 3), None


_BLOCKS = WeakIdKeyDictionary()


class _BlockAttention(torch.autograd.Function):
    """The blocks; with P the softmax of the scores S, O = P·V, and δ = Σ dO·O: dV = Pᵀ·dO, dS = P·(dO·Vᵀ - δ)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Blocks], scale: float) -> Tensor:
        dtype = torch.promote_types(query.dtype, torch.float32)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        log_norm = query.new_empty(query.shape[:2], dtype=dtype)
        for some, queries, keys, values in _parts(blocks, query, key, value, scale):
            weights = _scores(queries, keys, some)
            largest = weights.amax(-1, keepdim=True)
            norm = weights.sub_(largest).exp_().sum(-1, keepdim=True)
            result = torch.bmm(weights, values).div_(norm)
            places = some.queries.flatten()
            out.index_copy_(1, places, _by_query_head(result, len(key), some).to(out.dtype))
            log_norm.index_copy_(1, places, _by_query_head(norm.log_().add_(largest), len(key), some).squeeze(2))
        ctx.save_for_backward(query, key, value, out, log_norm)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, log_norm = ctx.saved_tensors
        heads = len(key)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros_like(each, dtype=log_norm.dtype) for each in (key, value))
        delta = (grad_out.to(log_norm.dtype) * out).sum(-1)
        for some, queries, keys, values in _parts(ctx.blocks, query, key, value, ctx.scale):
            places, from_keys = some.queries.flatten(), some.keys.flatten()
            grad = _by_key_head(grad_out, some, heads).to(log_norm.dtype)
            weights = _scores(queries, keys, some).sub_(_by_key_head(log_norm.unsqueeze(2), some, heads)).exp_()
            grad_value.index_add_(1, from_keys, torch.bmm(weights.mT, grad).view(heads, -1, grad.shape[2]))
            grad_scores = torch.bmm(grad, values.mT).sub_(_by_key_head(delta.unsqueeze(2), some, heads)).mul_(weights)
            grad_key.index_add_(1, from_keys, torch.bmm(grad_scores.mT, queries).view(heads, -1, keys.shape[2]))
            of_queries = torch.bmm(grad_scores, keys).mul_(ctx.scale)
            grad_query.index_copy_(1, places, _by_query_head(of_queries, heads, some).to(query.dtype))
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _parts(
    blocks: list[Blocks], query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Iterator[tuple[Blocks, Tensor, Tensor, Tensor]]:
    """Blocks with their scaled queries, ``(H · N, G · Q, D)``, keys and values, in float32 at least."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    for some in blocks:
        states = (each.index_select(1, some.keys.flatten()).to(dtype) for each in (key, value))
        keys, values = (each.view(-1, some.keys.shape[1], each.shape[2]) for each in states)
        yield some, _by_key_head(query, some, len(key)).to(dtype) * scale, keys, values


def _by_key_head(states: Tensor, some: Blocks, heads: int) -> Tensor:
    """States of the blocks' queries, ``(H · G, places, D)``, as ``(H · N, G · Q, D)``."""
    number, queries = some.queries.shape
    chosen = states.index_select(1, some.queries.flatten()).view(heads, -1, number, queries, states.shape[2])
    return chosen.transpose(1, 2).reshape(heads * number, -1, states.shape[2])


def _by_query_head(states: Tensor, heads: int, some: Blocks) -> Tensor:
    """Back again: ``(H · N, G · Q, D)`` as ``(H · G, N · Q, D)``."""
    number, queries = some.queries.shape
    apart = states.view(heads, number, -1, queries, states.shape[2]).transpose(1, 2)
    return apart.reshape(-1, number * queries, states.shape[2])


def _scores(queries: Tensor, keys: Tensor, some: Blocks) -> Tensor:
    """Scores, -inf where a query may not attend to a key, ``(H · N, G · Q, K)``."""
    scores = torch.bmm(queries, keys.mT)
    number, size, length = some.hidden.shape
    apart = scores.view(-1, number, scores.shape[1] // size, size, length)
    apart.masked_fill_(some.hidden.unsqueeze(1), -torch.inf)
    return scores
