"""Attention over token trees on a CPU: block by block, each with the tokens that some query of it may attend to.

A dense mask of a row costs the row's square, although a token of a tree attends to little of the row. FlexAttention
leaves out what nothing attends to, but has no backward pass on CPUs. The softmax of long blocks is computed again in
the backward pass; in a short type that of short blocks is kept, a tenth of what a layer keeps anyway.

Scores are products in float32 at least; the other products have the states' type. In bfloat16 a score of 10 would be
off by .04, and its softmax with it. Models put nearly all weight on one key, where P·(dP - δ) cancels: δ is therefore
a sum of the rounded P and dP, and not of O.

Shape letters: D = width of a head; N = blocks that are computed together, Q, K = queries and keys of a block; H = heads
of keys, G = heads of queries that share one of them. Places are those of all rows, one after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_QUERIES = 64  # of a block: so many that matrix products are quick, so few that little is computed in vain
_PAIRS = 1 << 16
_KEPT = 256  # keys of a block whose softmax is kept, in types shorter than float32
_ROUND = 64  # keys of blocks that are computed together are rounded up to a multiple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Successive queries of trees, in blocks of one size.

    Attributes:
        queries: Their places, ``(N, Q)``.
        keys: Places that one of a block's queries may attend to, filled up by others, ``(N, K)``.
        hidden: True where a query may not attend to a key, ``(N, Q, K)``.
    """

    queries: Int[Tensor, "N Q"]
    keys: Int[Tensor, "N K"]
    hidden: Bool[Tensor, "N Q K"]


def blocks_of(until: Int[Tensor, " places"], trees: Sequence[tuple[int, int]]) -> list[Blocks]:
    """Cut trees into blocks, and put those of like size together.

    Args:
        until: Of every place, the place just past its subtree.
        trees: The first place of each tree, and the place past its last.
    """
    found: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for root, end in trees:
        for begin in range(root, end, _QUERIES):
            queries = torch.arange(begin, min(begin + _QUERIES, end))
            keys = torch.cat([(until[root:begin] > begin).nonzero().flatten() + root, queries])
            size = -(-len(keys) // _ROUND) * _ROUND
            keys = torch.nn.functional.pad(keys, (0, size - len(keys)), value=len(until))  # behind every query
            found.setdefault((len(queries), size), []).append((queries, keys))
    until = torch.cat([until, until.new_zeros(1)])
    return [
        _together(blocks[first : first + number], until)
        for (queries, size), blocks in found.items()
        for number in [max(1, _PAIRS // (queries * size))]
        for first in range(0, len(blocks), number)
    ]


def _together(blocks: Sequence[tuple[Tensor, Tensor]], until: Int[Tensor, " places"]) -> Blocks:
    """Blocks of one size; ``until`` is of all places, and of one behind them."""
    queries, keys = (torch.stack(each) for each in zip(*blocks, strict=True))
    here, there = queries.unsqueeze(2), keys.unsqueeze(1)
    hidden = (there > here) | (until[there] <= here)
    return Blocks(queries=queries, keys=keys.clamp(max=len(until) - 2), hidden=hidden)


def block_attention(
    query: Float[Tensor, "_ places D"],
    key: Float[Tensor, "_ places D"],
    value: Float[Tensor, "_ places _"],
    blocks: list[Blocks],
    scale: float,
) -> Float[Tensor, "_ places _"]:
    """Attention of the blocks' queries.

    Args:
        query: Queries of all heads, at all places.
        key: Keys; several query heads may share one of their heads.
        value: Values.
        blocks: Which queries there are, and what they attend to.
        scale: Of the scores.

    Returns:
        The result, 0 at places that are in no block.
    """
    apply: Callable[..., Tensor] = _BlockAttention.apply
    with torch.autocast("cpu", enabled=False):  # which would give products a shorter type than sums
        return apply(query, key, value, blocks, scale)


class _BlockAttention(torch.autograd.Function):
    """The blocks; with P the softmax of the scores, O = P·V, dP = dO·Vᵀ, δ = Σ P·dP: dV = Pᵀ·dO, dS = P·(dP - δ)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Blocks], scale: float) -> Tensor:
        out = query.new_zeros(*query.shape[:2], value.shape[2])
        kept: list[Tensor | None] = []
        for some, weights in _weights(query, key, blocks, scale, [None] * len(blocks)):
            result = torch.bmm(weights, _of_keys(value, some))
            out.index_copy_(1, some.queries.flatten(), _by_query_head(result, len(key), some))
            short = weights.shape[2] <= _KEPT and weights.dtype != _exact(weights)
            kept.append(weights if short else None)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        heads, dtype, grad_out = len(key), _exact(query), grad_out.contiguous()
        grad_query = torch.zeros_like(query)
        grad_key, grad_value = (torch.zeros_like(each, dtype=dtype) for each in (key, value))
        for some, weights in _weights(query, key, ctx.blocks, ctx.scale, kept):
            grad, from_keys = _by_key_head(grad_out, some, heads), some.keys.flatten()
            of_values = torch.bmm(weights.mT, grad).to(dtype)
            grad_value.index_add_(1, from_keys, of_values.view(heads, -1, grad.shape[2]))
            products = torch.bmm(grad, _of_keys(value, some).mT)
            grad_scores = torch._softmax_backward_data(products, weights, -1, weights.dtype)
            of_keys = torch.bmm(grad_scores.mT, _by_key_head(query, some, heads)).to(dtype)
            grad_key.index_add_(1, from_keys, of_keys.view(heads, -1, key.shape[2]), alpha=ctx.scale)
            of_queries = torch.bmm(grad_scores, _of_keys(key, some)).mul_(ctx.scale)
            grad_query.index_copy_(1, some.queries.flatten(), _by_query_head(of_queries, heads, some))
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _weights(
    query: Tensor, key: Tensor, blocks: list[Blocks], scale: float, kept: Sequence[Tensor | None]
) -> Iterator[tuple[Blocks, Tensor]]:
    """Each block's softmax of the scores, kept or computed, 0 where a query may not attend, ``(H · N, G · Q, K)``."""
    if any(weights is None for weights in kept):
        exact_query, exact_key = query.to(_exact(query)) * scale, key.to(_exact(key))
    for some, weights in zip(blocks, kept, strict=True):
        if weights is not None:
            yield some, weights
            continue
        scores = torch.bmm(_by_key_head(exact_query, some, len(key)), _of_keys(exact_key, some).mT)
        number, size, length = some.hidden.shape
        apart = scores.view(-1, number, scores.shape[1] // size, size, length)
        apart.masked_fill_(some.hidden.unsqueeze(1), -torch.inf)
        yield some, torch.softmax(scores, -1).to(query.dtype)


def _exact(states: Tensor) -> torch.dtype:
    """The states' type, float32 at least."""
    return torch.promote_types(states.dtype, torch.float32)


def _of_keys(states: Tensor, some: Blocks) -> Tensor:
    """States of the blocks' keys, ``(H, places, D)``, as ``(H · N, K, D)``."""
    return states.index_select(1, some.keys.flatten()).view(-1, some.keys.shape[1], states.shape[2])


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
