"""Attention over token trees on a CPU: tree by tree.

Small trees of like size are computed together, by PyTorch's fused attention under a mask of each tree's square. Large
ones are computed by blocks. Nothing is filled up but copies of small trees' queries, keys and values. In types shorter
than float32 all are computed by blocks: the backward pass of PyTorch's fused attention is slow there.

Shape letters: B = rows, T = tokens of a row, D = width of a head; N = trees that are computed together, L = their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary

from modules.block_attention import Blocks, block_attention, blocks_of

QUICK = (256, 384, 512)
"""Sizes of trees up to which the whole square is quicker than its blocks, the quickest first."""
_FULL = 4  # bytes of a number whose squares are quick
_ROUND = 16  # tokens: trees whose sizes round up to one multiple are computed together
_PAIRS = 1 << 20  # of places, in the masks of trees that are computed together
_PLANS = WeakIdKeyDictionary()  # by the tensor ``until`` that they are made of, as long as there is one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Squares:
    """Small trees of like size.

    Attributes:
        places: The places of each, filled up by others, ``(N, L)``.
        counts: False where it is filled up, ``(N, L)``.
        mask: True where a place may attend to another, ``(N, 1, L, L)``.
    """

    places: Int[Tensor, "N L"]
    counts: Bool[Tensor, "N L"]
    mask: Bool[Tensor, "N 1 L L"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """How a batch's trees are computed; ``inside`` are the filled places that count, of all squares together."""

    squares: list[Squares]
    places: Int[Tensor, " filled"]
    inside: Int[Tensor, " inside"]
    blocks: list[Blocks]


def tree_attention(
    query: Float[Tensor, "B _ T D"],
    key: Float[Tensor, "B _ T D"],
    value: Float[Tensor, "B _ T _"],
    until: Int[Tensor, "B 1 1 T"],
    scaling: float | None = None,
) -> Float[Tensor, "B T _ _"]:
    """Attention of each token to its path from the root.

    Args:
        query: Queries of all heads.
        key: Keys; several query heads may share one of their heads.
        value: Values.
        until: As ``TokenBatch`` has it; the plan that is made of it is kept for the other layers.
        scaling: Of the scores; default: one over the root of D.
    """
    if torch.is_autocast_enabled("cpu"):  # positions are float32, and have made so what was multiplied by them
        query, key, value = (each.to(torch.get_autocast_dtype("cpu")) for each in (query, key, value))
    if until not in _PLANS:
        _PLANS[until] = _plan(until[:, 0, 0], QUICK[-1] if query.dtype.itemsize >= _FULL else 0)
    plan: _Plan = _PLANS[until]
    rows, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    flat_query, flat_key, flat_value = (each.transpose(0, 1).flatten(1, 2).contiguous() for each in (query, key, value))
    if plan.blocks:
        out = block_attention(flat_query, flat_key, flat_value, plan.blocks, scale)
    else:
        out = query.new_zeros(heads, rows * length, value.shape[3])
    if plan.squares:
        found = _in_squares((flat_query, flat_key, flat_value), plan, scale)
        out = out.index_copy(1, plan.places[plan.inside], found)
    return out.view(heads, rows, length, -1).permute(1, 2, 0, 3)


def _in_squares(states: Sequence[Tensor], plan: _Plan, scale: float) -> Float[Tensor, "_ inside _"]:
    """Attention within the small trees, at the places that count."""
    sizes = [each.places.numel() for each in plan.squares]
    copies = zip(*(torch.split(each.index_select(1, plan.places), sizes, 1) for each in states), strict=True)
    found = []
    for square, (query, key, value) in zip(plan.squares, copies, strict=True):
        number, length = square.places.shape
        shared = len(query) // len(key)
        if shared > 1:
            key, value = (each.repeat_interleave(shared, 0) for each in (key, value))
        query, key, value = (each.view(len(each), number, length, -1).transpose(0, 1) for each in (query, key, value))
        attended = scaled_dot_product_attention(query, key, value, attn_mask=square.mask, scale=scale)
        found.append(attended.transpose(0, 1).flatten(1, 2))
    return torch.cat(found, 1).index_select(1, plan.inside)


def _plan(until: Int[Tensor, "B T"], largest: int) -> _Plan:
    """Find the trees of rows, and share them out; those of at most ``largest`` tokens become squares."""
    length = until.shape[1]
    flat = (until + torch.arange(len(until)).unsqueeze(1) * length).flatten()
    places = torch.arange(len(flat))
    before = pad(flat.cummax(0).values[:-1], (1, 0))
    roots = places[before <= places]
    trees = list(zip(roots.tolist(), flat[roots].tolist(), strict=True))
    small: dict[int, list[tuple[int, int]]] = {}
    for root, end in trees:
        if end - root <= largest:
            small.setdefault(-(-(end - root) // _ROUND) * _ROUND, []).append((root, end))
    squares = [
        _square(some[first : first + number], size, flat)
        for size, some in sorted(small.items())
        for number in [max(1, _PAIRS // size**2)]
        for first in range(0, len(some), number)
    ]
    return _Plan(
        squares=squares,
        places=torch.cat([places[:0], *(square.places.flatten() for square in squares)]),
        inside=torch.cat([places[:0], *(square.counts.flatten() for square in squares)]).nonzero().flatten(),
        blocks=blocks_of(flat, [(root, end) for root, end in trees if end - root > largest]),
    )


def _square(trees: Sequence[tuple[int, int]], size: int, until: Int[Tensor, " places"]) -> Squares:
    """Give each of some small trees a square; what fills it up attends to itself."""
    roots, ends = torch.tensor(trees).unbind(1)
    places = roots.unsqueeze(1) + torch.arange(size)
    counts = places < ends.unsqueeze(1)
    filled = places.clamp(max=len(until) - 1)
    here, there = places.unsqueeze(2), places.unsqueeze(1)
    mask = (there <= here) & (here < until[filled].unsqueeze(1)) & counts.unsqueeze(1)
    return Squares(places=filled, counts=counts, mask=(mask | torch.eye(size, dtype=torch.bool)).unsqueeze(1))
