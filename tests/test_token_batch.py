"""Prompts and replies in rows: every token once, a prompt once for all its replies, nothing beyond the budget."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.token_batch import (
    Layout,
    Pair,
    TokenBatch,
    block_length,
    make_token_batch,
    plan_micro_batches,
    shared_prompts,
)

PAD = 99
PAIRS: list[Pair] = [([1, 2], [3, 4]), ([5], [6]), ([1, 2], [7])]

BY_HAND = {
    "shared": {
        "input_ids": [[1, 2, 3, 4, 7], [5, 6, PAD, PAD, PAD]],
        "position_ids": [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]],
        "reply": [[0, 0, 1, 1, 2], [0, 1, 0, 0, 0]],
        "source": [[1, 2], [5, 0], [1, 0]],
    },
    "rows": {
        "input_ids": [[1, 2, 3, 4], [5, 6, PAD, PAD], [1, 2, 7, PAD]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 0, 0], [0, 1, 2, 0]],
        "reply": [[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0]],
        "source": [[1, 2], [4, 0], [9, 0]],
    },
    "packed": {
        "input_ids": [[1, 2, 3, 4, 5, 6, 1, 2, 7]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 0, 1, 2]],
        "reply": [[0, 0, 1, 1, 0, 1, 0, 0, 1]],
        "source": [[1, 2], [4, 0], [7, 0]],
    },
}


@pytest.mark.parametrize("layout", BY_HAND)
@pytest.mark.parametrize("tensor", ["input_ids", "position_ids", "reply", "source"])
def test_three_replies_to_two_prompts_by_hand(layout: Layout, tensor: str):
    assert getattr(make_token_batch(PAIRS, PAD, layout), tensor).tolist() == BY_HAND[layout][tensor]


@pytest.mark.parametrize("layout", BY_HAND)
def test_replies_come_in_the_pairs_order_however_they_lie(layout: Layout):
    batch = make_token_batch(PAIRS, PAD, layout)
    assert batch.reply_ids.tolist() == [[3, 4], [6, 0], [7, 0]]
    assert batch.action_mask.tolist() == [[True, True], [True, False], [True, False]]


def test_a_reply_sees_its_prompt_and_itself_and_no_other_reply():
    mask = make_token_batch(PAIRS, PAD).attention_mask()
    assert mask is not None
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # 7 does not see 3 and 4
    ]


def test_where_no_prompt_repeats_the_causal_order_is_mask_enough():
    assert make_token_batch(PAIRS[:2], PAD).attention_mask() is None


def test_an_empty_reply_has_no_written_token():
    batch = make_token_batch([([7, 8], [])], PAD)
    assert (batch.input_ids.tolist(), batch.action_mask.any().item()) == ([[7, 8]], False)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match=r"a prompt must have a token at least, got none for the reply \[4\]"):
        make_token_batch([([], [4])], PAD)


tokens = st.lists(st.integers(1, 3), min_size=1, max_size=3)  # few tokens: prompts repeat
pair_lists = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=20)
layouts = st.sampled_from(["shared", "packed", "rows"])


@given(pair_lists, layouts)
def test_every_reply_is_predicted_from_its_prompt_and_what_it_has_written(pairs: list[Pair], layout: Layout):
    batch = make_token_batch(pairs, PAD, layout)
    mask, flat = batch.attention_mask(), batch.input_ids.flatten()
    length = batch.input_ids.shape[1]
    for index, (prompt, reply) in enumerate(pairs):
        for place, source in enumerate(batch.source[index, : len(reply)].tolist()):
            row, column = divmod(source, length)
            seen = torch.arange(length) <= column if mask is None else mask[row, 0, column]
            if layout == "packed":  # sequences begin where positions do
                begins = (batch.position_ids[0, : column + 1] == 0).nonzero().max()
                seen = seen & (torch.arange(length) >= begins)
            assert flat[row * length : (row + 1) * length][seen].tolist() == [*prompt, *reply[:place]]
            assert batch.position_ids.flatten()[source] == len(prompt) + place - 1


@given(pair_lists, st.integers(1, 60), layouts)
def test_micro_batches_hold_every_pair_once(pairs: list[Pair], budget: int, layout: Layout):
    plan = plan_micro_batches(pairs, budget, layout)
    assert sorted(index for part in plan for block in part for index in block) == list(range(len(pairs)))


def planned(pairs: list[Pair], part: list[list[int]], layout: Layout) -> TokenBatch:
    """A micro-batch as it was planned."""
    sizes = [len(block) for block in part]
    return make_token_batch([pairs[index] for block in part for index in block], PAD, layout, sizes)


@given(pair_lists, st.integers(1, 60), layouts)
def test_only_a_pair_on_its_own_may_exceed_the_budget(pairs: list[Pair], budget: int, layout: Layout):
    for part in plan_micro_batches(pairs, budget, layout):
        size = planned(pairs, part, layout).input_ids.numel()
        assert [len(block) for block in part] == [1] or size <= budget


@given(pair_lists, st.integers(1, 60))
def test_two_neighbouring_micro_batches_would_not_have_fitted_into_one(pairs: list[Pair], budget: int):
    plan = plan_micro_batches(pairs, budget, "rows")
    for one, other in pairwise(plan):
        assert (len(one) + 1) * block_length(pairs, other[0]) > budget


@given(pair_lists)
def test_a_prompt_is_there_once_unless_its_row_would_be_long(pairs: list[Pair]):
    (part,) = plan_micro_batches(pairs, 10_000)
    batch = planned(pairs, part, "shared")
    for block in shared_prompts(pairs):
        rows = [row for row in part if set(row) <= set(block)]
        longest = max(block_length(pairs, [index]) for index in block)
        assert sorted(index for row in rows for index in row) == sorted(block)
        assert all(block_length(pairs, row) <= 2 * longest for row in rows)
        for one, other in pairwise(sorted(rows, key=min)):  # filled in order, as far as they may be
            assert block_length(pairs, [*one, other[0]]) > 2 * longest
    assert np.count_nonzero(batch.input_ids.numpy() != PAD) == sum(block_length(pairs, row) for row in part)


def test_a_budget_may_be_used_up():
    assert plan_micro_batches([([1], [2, 3]), ([2], [3, 4])], token_budget=6) == [[[0], [1]]]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="token_budget must be >= 1, got 0"):
        plan_micro_batches([([1], [2])], 0)
