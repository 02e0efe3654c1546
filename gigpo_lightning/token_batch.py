"""Prompts and replies as tensors.

A prompt that several replies answer is computed once: agents come back to the same state with the same history, and all
episodes of a task begin with it. On ALFWorld one to two thirds of the prompts of an epoch repeat another, and what is
left is a half of the tokens (benchmarks/README.md).

Shape letters: B = rows, T = tokens of the longest row; S = replies, R = tokens of the longest reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

Layout = Literal["shared", "packed", "rows"]
"""How replies lie in rows: ``"shared"`` puts a prompt and all its replies into a row; ``"packed"`` puts everything into
one row without filling, for attention that takes sequences of any length side by side; ``"rows"`` gives each reply a
row."""

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Prompts and replies in rows, filled up on the right.

    Attributes:
        input_ids: A prompt, then its replies; in a packed row, the next prompt then, ``(B, T)``.
        position_ids: Each token's place in its own prompt and reply, from 0, ``(B, T)``.
        reply: 0 in a prompt, else which of its prompt's replies the token is of, from 1, ``(B, T)``.
        source: For each token of a reply, the place among all ``B · T`` whose state predicts it, ``(S, R)``.
        reply_ids: The replies' tokens, ``(S, R)``.
        action_mask: True where there is one, ``(S, R)``.
        layout: How they lie in rows; ``"shared"`` only if some prompt has several replies.
    """

    input_ids: Int64[Tensor, "B T"]
    position_ids: Int64[Tensor, "B T"]
    reply: Int64[Tensor, "B T"]
    source: Int64[Tensor, "S R"]
    reply_ids: Int64[Tensor, "S R"]
    action_mask: Bool[Tensor, "S R"]
    layout: Layout

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on a device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layout"}
        return TokenBatch(layout=self.layout, **{name: value.to(device) for name, value in moved.items()})

    def attention_mask(self) -> Bool[Tensor, "B 1 T T"] | None:
        """True where a token may attend to another; None where the causal order of its row says it all.

        Filling lies on the right and so behind everything that counts: it needs no mask.
        """
        if self.layout != "shared":
            return None
        length = self.input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.reply.device).tril()
        here, there = self.reply.unsqueeze(2), self.reply.unsqueeze(1)
        return (causal & ((there == 0) | (there == here))).unsqueeze(1)


def make_token_batch(
    pairs: Sequence[Pair], pad_token_id: int, layout: Layout = "shared", block_sizes: Sequence[int] | None = None
) -> TokenBatch:
    """Put prompts and replies into tensors.

    Two replies ``a b`` and ``c`` to the prompt ``P Q``, and ``d`` to ``R``, in the three layouts; ``.`` fills up::

        "shared"           "rows"         "packed"
        P Q a b c          P Q a b        P Q a b P Q c R d
        R d . . .          P Q c .
                           R d . .

        position_ids of the first shared row   0 1 2 3 2
        reply of the first shared row          0 0 1 1 2
        source of reply 1 (a b), as places     Q a          the token before each predicts it
        source of reply 2 (c)                  Q

    Args:
        pairs: Token ids of each prompt and of its reply; S of them, and in this order.
        pad_token_id: Fills rows up.
        layout: How replies lie in rows.
        block_sizes: So many successive pairs each share their prompt; default: all that have one, if it is shared.

    Raises:
        ValueError: If a prompt is empty: nothing would predict its reply's first token.
    """
    if block_sizes is None and layout == "shared":
        blocks = shared_prompts(pairs)
    else:
        places = iter(range(len(pairs)))
        blocks = [list(islice(places, size)) for size in block_sizes or [1] * len(pairs)]
    lengths = [block_length(pairs, block) for block in blocks]
    one_row = layout == "packed"
    shape = (1, sum(lengths)) if one_row else (len(blocks), max(lengths))
    width = max(1, *(len(reply) for _, reply in pairs))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    position_ids, in_reply = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    source, reply_ids = np.zeros((len(pairs), width), dtype=np.int64), np.zeros((len(pairs), width), dtype=np.int64)
    action_mask = np.zeros((len(pairs), width), dtype=bool)
    packed = 0  # tokens so far, where all blocks share one row
    for number_of_block, (block, length) in enumerate(zip(blocks, lengths, strict=True)):
        row, begin = (0, packed) if one_row else (number_of_block, 0)
        prompt = pairs[block[0]][0]
        if not prompt:
            raise ValueError(f"a prompt must have a token at least, got none for the reply {pairs[block[0]][1]!r}")
        start = begin + len(prompt)
        input_ids[row, begin:start] = prompt
        position_ids[row, begin:start] = np.arange(len(prompt))
        for number, index in enumerate(block, start=1):
            reply = pairs[index][1]
            end = start + len(reply)
            input_ids[row, start:end] = reply
            position_ids[row, start:end] = np.arange(len(prompt), len(prompt) + len(reply))
            in_reply[row, start:end] = number
            last = row * shape[1] + begin + len(prompt) - 1  # of the prompt: it predicts the reply's first token
            source[index, : len(reply)] = [last, *range(row * shape[1] + start, row * shape[1] + end - 1)][: len(reply)]
            reply_ids[index, : len(reply)] = reply
            action_mask[index, : len(reply)] = True
            start = end
        packed += length
    return TokenBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        reply=torch.from_numpy(in_reply),
        source=torch.from_numpy(source),
        reply_ids=torch.from_numpy(reply_ids),
        action_mask=torch.from_numpy(action_mask),
        layout="rows" if layout == "shared" and len(blocks) == len(pairs) else layout,
    )


def plan_micro_batches(pairs: Sequence[Pair], token_budget: int, layout: Layout = "shared") -> list[list[list[int]]]:
    """Pack rows of like length together, so that rows times longest row stays within the budget.

    Of a packed row all tokens count. A pair longer than the budget gets a micro-batch of its own: it is never cut.

    Returns:
        Of each micro-batch, shortest rows first, the blocks of pairs that share a row: positions in ``pairs``.

    Raises:
        ValueError: If ``token_budget`` is not positive.

    Example:
        >>> plan_micro_batches([([1, 2], [3]), ([1, 2], [4]), ([5], [6, 7, 8, 9])], token_budget=6)
        [[[0, 1]], [[2]]]
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be >= 1, got {token_budget}")
    blocks = [[index] for index in range(len(pairs))]
    if layout == "shared":
        blocks = [part for block in shared_prompts(pairs) for part in _split(pairs, block, token_budget)]
    plan: list[list[list[int]]] = []
    rows = tokens = 0
    for length, block in sorted((block_length(pairs, block), block) for block in blocks):
        rows, tokens = rows + 1, tokens + length
        if plan and (tokens if layout == "packed" else rows * length) <= token_budget:
            plan[-1].append(block)
        else:
            plan.append([block])
            rows, tokens = 1, length
    return plan


def shared_prompts(pairs: Sequence[Pair]) -> list[list[int]]:
    """Positions of the pairs of each prompt, in the order in which prompts first appear."""
    blocks: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(pairs):
        blocks.setdefault(tuple(prompt), []).append(index)
    return list(blocks.values())


def block_length(pairs: Sequence[Pair], block: Sequence[int]) -> int:
    """Tokens of one prompt and its replies."""
    return len(pairs[block[0]][0]) + sum(len(pairs[index][1]) for index in block)


def _split(pairs: Sequence[Pair], block: list[int], token_budget: int) -> list[list[int]]:
    """Parts of a prompt's replies that each fit into the budget beside the prompt, and make no long row of short ones.

    Attention costs the square of a row's length, with a mask twice what it costs without. In rows at most twice as long
    as the longest of their sequences it stays a small part of what is saved.
    """
    longest = max(block_length(pairs, [index]) for index in block)
    parts: list[list[int]] = []
    for index in block:
        if parts and block_length(pairs, [*parts[-1], index]) <= min(token_budget, 2 * longest):
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts
