"""Rows of demonstrations in batches."""

import pytest
import torch

from datamodules.example_batches import ExampleBatches
from gigpo_lightning.imitation import Example
from gigpo_lightning.token_trees import RowRules

SHARED, PLAIN = RowRules(), RowRules(shared=False)

ROWS = [Example(prompt_ids=(1, 2, number % 3), reply_ids=(10 + number,)) for number in range(20)]


def served(batches: ExampleBatches) -> list[list[int]]:
    """The first token of every reply, batch by batch."""
    return [batch.reply_ids[:, 0].tolist() for batch in batches]


def test_a_run_that_goes_on_in_an_epoch_gets_the_batches_that_were_left() -> None:
    whole = served(ExampleBatches(ROWS, 4, 0, epoch=lambda: 3))
    assert served(ExampleBatches(ROWS, 4, 0, epoch=lambda: 3, done=lambda: 2)) == whole[2:]


def test_ranks_share_an_epoch_out() -> None:
    parts = [ExampleBatches(ROWS, 4, 0, epoch=lambda: 0, rank=rank, ranks=2) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    together = [reply for part in parts for batch in served(part) for reply in batch]
    assert set(together) == {10 + number for number in range(20)}


def test_replies_to_one_prompt_share_it() -> None:
    for batch in ExampleBatches(ROWS, 7, 0, epoch=lambda: 0, rules=RowRules(one_row=True)):
        assert len(batch.source.unique()) == 1  # all replies are predicted from the one prompt's last token
        assert batch.input_ids.numel() == 3 + len(batch.reply_ids)


def test_growing_conversations_share_what_they_begin_with() -> None:
    rows = [Example(prompt_ids=(1, 2, 3), reply_ids=(4,)), Example(prompt_ids=(1, 2, 3, 4, 5), reply_ids=(6, 7))]
    (batch,) = ExampleBatches(rows, 2, 0, rules=SHARED)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]


def test_without_sharing_each_row_is_a_sequence() -> None:
    (batch,) = ExampleBatches(ROWS, 20, 0)
    assert batch.input_ids.shape == (20, 4)
    assert batch.is_plain


def test_shared_prompts_change_no_loss_s_rows() -> None:
    batches = ExampleBatches(ROWS, 7, 0, epoch=lambda: 1, rules=SHARED)
    assert sorted(reply for batch in served(batches) for reply in batch) == [10 + number for number in range(20)]


def test_epochs_have_equally_many_batches_with_shared_prompts() -> None:
    rows = [Example(prompt_ids=(1, number * number // 9), reply_ids=(number,)) for number in range(30)]
    counts = {len(served(ExampleBatches(rows, 5, 0, epoch=lambda: epoch, rules=SHARED))) for epoch in range(6)}  # noqa: B023
    assert len(counts) == 1


@pytest.mark.parametrize("rules", [PLAIN, SHARED])
def test_only_what_is_written_is_in_the_mask(rules: RowRules) -> None:
    row = Example(prompt_ids=(1,), reply_ids=(2, 3, 4), written=(True, False, True))
    (batch,) = ExampleBatches([row, ROWS[0]], 2, 0, rules=rules)
    by_length = sorted(batch.action_mask.tolist())
    assert by_length == [[True, False, False], [True, False, True]]
    assert torch.equal(batch.reply_ids[batch.action_mask].sort().values, torch.tensor([2, 4, 10]))
