"""Prompts and replies as tensors: token trees in rows.

One rule says prompts that several replies share, conversations that grow, episodes that begin alike, and sequences side
by side: a token's subtree lies behind it, up to a place that is known.

Shape letters: B = rows, T = tokens of the longest row; S = replies, R = tokens of the longest reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy.typing import NDArray
from torch import Tensor

from gigpo_lightning.token_trees import Pair, TokenTree, token_trees


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Token trees in rows, each in depth-first order, filled up on the right.

    A token at q may attend to one at k of its row if and only if ``k <= q < until[k]``.

    Attributes:
        input_ids: The trees' tokens, ``(B, T)``.
        position_ids: Each token's depth in its tree, from 0, ``(B, T)``.
        until: The place in its row just past the last token below it, ``(B, T)``; what fills up is a tree by itself.
        source: For each token of a reply, the place among all ``B · T`` whose state predicts it, ``(S, R)``; replies
            that begin alike, to prompts that are alike, have places in common.
        reply_ids: The replies' tokens, ``(S, R)``.
        action_mask: True where there is one, ``(S, R)``.
    """

    input_ids: Int64[Tensor, "B T"]
    position_ids: Int64[Tensor, "B T"]
    until: Int64[Tensor, "B T"]
    source: Int64[Tensor, "S R"]
    reply_ids: Int64[Tensor, "S R"]
    action_mask: Bool[Tensor, "S R"]

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on a device."""
        return TokenBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @property
    def branches(self) -> bool:
        """Whether a tree is more than one path from its root."""
        return bool((self._turns & (self.position_ids > 0)).any())

    @property
    def is_plain(self) -> bool:
        """Whether each row is one sequence, of which its causal order says all that a mask could say.

        Filling lies on the right and so behind everything that counts: what it attends to makes no difference.
        """
        places = torch.arange(self.until.shape[1], device=self.until.device)
        fills = (self.position_ids == 0) & (self.until == places + 1)
        return not (self._turns & ~fills).any()

    @property
    def _turns(self) -> Bool[Tensor, "B T"]:
        """True on tokens that do not go on with the one on their left."""
        steps = self.position_ids.diff(dim=1, prepend=torch.full_like(self.position_ids[:, :1], -1))
        return steps != 1

    def attention_mask(self) -> Bool[Tensor, "B 1 T T"]:
        """True where a token may attend to another."""
        places = torch.arange(self.until.shape[1], device=self.until.device)
        here = places.unsqueeze(1)
        return ((places <= here) & (here < self.until.unsqueeze(1))).unsqueeze(1)


def make_token_batch(
    pairs: Sequence[Pair], pad_token_id: int, rows: Sequence[Sequence[TokenTree]] | None = None
) -> TokenBatch:
    """Put prompts and replies into tensors.

    Two replies ``a b`` and ``c`` to the prompt ``P Q``, and ``d`` to ``R``; ``.`` fills up::

        in two rows                in one row                 nothing shared, in three
        P Q a b c                  P Q a b c R d              P Q a b
        R d . . .                                             P Q c .
                                                              R d . .

        position_ids  0 1 2 3 2    0 1 2 3 2 0 1              0 1 2 3
        until         5 5 4 4 5    5 5 4 4 5 7 7              4 4 4 4
        source of a b     1 2      1 2                        1 2          the token before each predicts it
        source of c       1        1                          5

    Args:
        pairs: Token ids of each prompt and of its reply.
        pad_token_id: Fills rows up.
        rows: The trees of each row; default: all that the pairs make, each in a row. Replies come in the order of the
            pairs, or, where rows are given, in that of their trees.

    Raises:
        ValueError: If a prompt is empty: nothing would predict its reply's first token.
    """
    order = range(len(pairs)) if rows is None else [index for row in rows for tree in row for index in tree.pairs]
    rows = [[tree] for tree in token_trees(pairs)] if rows is None else rows
    length = max(sum(tree.num_tokens for tree in row) for row in rows)
    width = max(1, *(len(pairs[index][1]) for index in order))
    numbers = {index: number for number, index in enumerate(order)}
    batch = _Arrays((len(rows), length), (len(order), width), pad_token_id)
    for number, row in enumerate(rows):
        begin = number * length
        for tree in row:
            begin = batch.lay(tree, pairs, numbers, begin)
    return batch.tensors()


class _Arrays:
    """A batch that is being filled: rows one after the other, places among all of them.

    Args:
        rows: Number and length of the rows.
        replies: Number and greatest length of the replies.
        pad_token_id: Fills rows up.
    """

    def __init__(self, rows: tuple[int, int], replies: tuple[int, int], pad_token_id: int) -> None:
        self.shape = rows
        self.input_ids = np.full(rows[0] * rows[1], pad_token_id, dtype=np.int64)
        self.position_ids = np.zeros(rows[0] * rows[1], dtype=np.int64)
        self.until = np.arange(1, rows[0] * rows[1] + 1)
        self.source, self.reply_ids = np.zeros(replies, dtype=np.int64), np.zeros(replies, dtype=np.int64)
        self.action_mask = np.zeros(replies, dtype=bool)

    def lay(self, tree: TokenTree, pairs: Sequence[Pair], numbers: dict[int, int], begin: int) -> int:
        """Lay a tree from a place on; the place after it.

        ``path`` holds the places of the tokens from the root to the last one; what a sequence does not share of it
        ends there.
        """
        path: NDArray[np.int64] = np.empty(max(tree.lengths), dtype=np.int64)
        depth, end = 0, begin
        for index, length, shared in zip(tree.pairs, tree.lengths, tree.shared, strict=True):
            prompt, reply = pairs[index]
            self.until[path[shared:depth]] = end
            depth, added = length, end + length - shared
            self.input_ids[end:added] = (*prompt[shared:], *reply[max(0, shared - len(prompt)) :])
            self.position_ids[end:added] = np.arange(shared, length)
            path[shared:length] = np.arange(end, added)
            end = added
            number, written = numbers[index], slice(0, len(reply))
            self.source[number, written] = path[len(prompt) - 1 : length - 1]
            self.reply_ids[number, written] = reply
            self.action_mask[number, written] = True
        self.until[path[:depth]] = end
        return end

    def tensors(self) -> TokenBatch:
        """The batch."""
        begins = np.arange(self.shape[0])[:, np.newaxis] * self.shape[1]
        return TokenBatch(
            input_ids=torch.from_numpy(self.input_ids.reshape(self.shape)),
            position_ids=torch.from_numpy(self.position_ids.reshape(self.shape)),
            until=torch.from_numpy(self.until.reshape(self.shape) - begins),
            source=torch.from_numpy(self.source),
            reply_ids=torch.from_numpy(self.reply_ids),
            action_mask=torch.from_numpy(self.action_mask),
        )
