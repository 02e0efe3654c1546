"""Attention over token trees on a CPU: block by block, each with the tokens that some query of it may attend to.

A dense mask of a row costs the row's square, although a token of a tree attends to little of the row. FlexAttention
leaves out what nothing attends to, but has no backward pass on CPUs. Softmax is computed again in the backward pass,
from its normalizer, as FlashAttention does (arXiv:2205.14135, Algorithm 4 of its appendix).

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
_PAIRS = 1 << 17
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
    """The blocks; with P the softmax of the scores S, O = P·V, and δ = Σ dO·O: dV = Pᵀ·dO, dS = P·(dO·Vᵀ - δ)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Blocks], scale: float) -> Tensor:
        dtype = torch.promote_types(query.dtype, torch.float32)
        out = query.new_zeros(*query.shape[:2], value.shape[2])
        log_norm = query.new_zeros(query.shape[:2], dtype=dtype)
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
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, log_norm = ctx.saved_tensors
        heads = len(key)
        grad_query = torch.zeros_like(query)
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
