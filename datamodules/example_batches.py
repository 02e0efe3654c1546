"""Rows of demonstrations as batches of like length."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from gigpo_lightning.imitation import Example
from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from gigpo_lightning.token_trees import RowRules, in_rows, token_trees

_BUCKETS = 16  # batches that are sorted by length together


class ExampleBatches:
    """Batches of rows of like length; where there are epochs, in an order that each epoch's number decides.

    It is a loader of its own, which a run that goes on from the middle of an epoch continues where it was.

    Args:
        rows: What is learnt.
        batch_size: Rows of a batch.
        pad_token_id: Fills rows up.
        epoch: Says the number of the epoch that begins; None keeps the rows' order.
        done: Says how many of its batches have been learnt from, in a run that goes on.
        seed: Of the order.
        rules: How sequences lie in rows. If they may share tokens, replies to one prompt come in one batch; what they
            and others begin with alike is there once.
        rank: Of this process.
        ranks: Each serves as many batches as the others, of an epoch's in turn; some may come twice for that.
    """

    def __init__(
        self,
        rows: Sequence[Example],
        batch_size: int,
        pad_token_id: int,
        *,
        epoch: Callable[[], int] | None = None,
        done: Callable[[], int] = lambda: 0,
        seed: int = 0,
        rules: RowRules = RowRules(shared=False),  # noqa: B008  frozen
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._pad_token_id = pad_token_id
        self._epoch = epoch
        self._done = done
        self._seed = seed
        self._rules, self._shared = rules, rules.shared
        self._rank, self._ranks = rank, ranks
        blocks: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            blocks.setdefault(tuple(row.prompt_ids) if rules.shared else index, []).append(index)
        self._blocks = list(blocks.values())
        self._blocks = [block[i : i + batch_size] for block in self._blocks for i in range(0, len(block), batch_size)]

    def __len__(self) -> int:
        return -(-len(self._order(0)) // self._ranks)

    def __iter__(self) -> Iterator[TokenBatch]:
        batches = self._order(0 if self._epoch is None else self._epoch())
        for number in range(self._done(), len(self)):
            yield self._batch(batches[(number * self._ranks + self._rank) % len(batches)])

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the Trainer knows how far it is; that there is a state tells it that this loader can go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _order(self, epoch: int) -> list[list[int]]:
        """The rows of each batch of an epoch; batches with shared prompts are always the same, in another order."""
        order = list(range(len(self._blocks)))
        if self._epoch is not None:
            random.Random(f"{self._seed}/{0 if self._shared else epoch}").shuffle(order)
        reach = self._batch_size * _BUCKETS
        ordered: list[list[int]] = []
        for start, part in self._parts(order, reach):
            bucket = sorted(part, key=lambda block: len(self._rows[self._blocks[block][0]].prompt_ids))
            batches = list(self._filled(bucket))
            if self._epoch is not None:
                random.Random(f"{self._seed}/{epoch + 1}/{start}").shuffle(batches)
            ordered += batches
        if self._shared and self._epoch is not None:
            random.Random(f"{self._seed}/{epoch}/shared").shuffle(ordered)
        return ordered

    def _parts(self, order: Sequence[int], reach: int) -> Iterator[tuple[int, list[int]]]:
        """Blocks of about so many rows, and the number of the first one's first row."""
        start, rows, part = 0, 0, list[int]()
        for block in order:
            part.append(block)
            rows += len(self._blocks[block])
            if rows >= reach:
                yield start, part
                start, rows, part = start + rows, 0, []
        if part:
            yield start, part

    def _filled(self, blocks: Sequence[int]) -> Iterator[list[int]]:
        """Batches of at most ``batch_size`` rows, each block whole."""
        rows: list[int] = []
        for block in blocks:
            if rows and len(rows) + len(self._blocks[block]) > self._batch_size:
                yield rows
                rows = []
            rows = rows + self._blocks[block]
        if rows:
            yield rows

    def _batch(self, places: Sequence[int]) -> TokenBatch:
        rows = [self._rows[place] for place in places]
        pairs = [(row.prompt_ids, row.reply_ids) for row in rows]
        trees = in_rows(token_trees(pairs), self._rules)
        batch = make_token_batch(pairs, self._pad_token_id, trees)
        if all(row.written is None for row in rows):
            return batch
        mask = batch.action_mask.clone()
        for number, index in enumerate(index for row in trees for tree in row for index in tree.pairs):
            written = rows[index].written
            if written is not None:
                mask[number, : len(written)] = torch.tensor(written)
        return replace(batch, action_mask=mask)
