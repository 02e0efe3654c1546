"""Token trees in rows: every token once, each attends to its own path, and every reply is predicted from its prompt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from gigpo_lightning.token_trees import Pair, RowRules, TokenTree, plan_micro_batches, token_trees

PAD = 99
PAIRS: list[Pair] = [([1, 2], [3, 4]), ([5], [6]), ([1, 2], [7])]
TREES = token_trees(PAIRS)
ROWS: dict[str, list[list[TokenTree]]] = {
    "trees": [[tree] for tree in TREES],
    "side by side": [TREES],
    "plain": [[TREES[0].part(0, 1)], [TREES[0].part(1, 2)], [TREES[1]]],
}

BY_HAND = {
    "trees": {
        "input_ids": [[1, 2, 3, 4, 7], [5, 6, PAD, PAD, PAD]],
        "position_ids": [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]],
        "until": [[5, 5, 4, 4, 5], [2, 2, 3, 4, 5]],
        "source": [[1, 2], [1, 0], [5, 0]],
    },
    "side by side": {
        "input_ids": [[1, 2, 3, 4, 7, 5, 6]],
        "position_ids": [[0, 1, 2, 3, 2, 0, 1]],
        "until": [[5, 5, 4, 4, 5, 7, 7]],
        "source": [[1, 2], [1, 0], [5, 0]],
    },
    "plain": {
        "input_ids": [[1, 2, 3, 4], [1, 2, 7, PAD], [5, 6, PAD, PAD]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0]],
        "until": [[4, 4, 4, 4], [3, 3, 3, 4], [2, 2, 3, 4]],
        "source": [[1, 2], [5, 0], [8, 0]],
    },
}


@pytest.mark.parametrize("rows", BY_HAND)
@pytest.mark.parametrize("tensor", ["input_ids", "position_ids", "until", "source"])
def test_three_replies_to_two_prompts_by_hand(rows: str, tensor: str) -> None:
    assert getattr(make_token_batch(PAIRS, PAD, ROWS[rows]), tensor).tolist() == BY_HAND[rows][tensor]


@pytest.mark.parametrize("rows", BY_HAND)
def test_replies_come_in_the_order_of_the_trees(rows: str) -> None:
    batch = make_token_batch(PAIRS, PAD, ROWS[rows])
    assert batch.reply_ids.tolist() == [[3, 4], [7, 0], [6, 0]]
    assert batch.action_mask.tolist() == [[True, True], [True, False], [True, False]]


def test_without_rows_replies_come_in_the_order_of_the_pairs() -> None:
    batch = make_token_batch(PAIRS, PAD)
    assert batch.reply_ids.tolist() == [[3, 4], [6, 0], [7, 0]]
    assert batch.input_ids.tolist() == BY_HAND["trees"]["input_ids"]


def test_a_conversation_is_a_row_without_repetition_by_hand() -> None:
    batch = make_token_batch([([1, 2], [3, 4]), ([1, 2, 3, 4, 5], [6])], PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.source.tolist() == [[1, 2], [4, 0]]
    assert batch.is_plain


def test_equal_replies_are_predicted_at_the_same_places() -> None:
    batch = make_token_batch([([1], [2, 3])] * 2, PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3]]
    assert batch.source.tolist() == [[0, 1], [0, 1]]


def test_a_reply_sees_its_prompt_and_itself_and_no_other_reply() -> None:
    mask = make_token_batch(PAIRS, PAD).attention_mask()
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # 7 does not see 3 and 4
    ]


def test_what_fills_up_sees_itself_alone() -> None:
    mask = make_token_batch(PAIRS, PAD).attention_mask()
    assert mask[1, 0, 2:].int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("rows", "branches", "is_plain"), [("trees", True, False), ("side by side", True, False), ("plain", False, True)]
)
def test_a_batch_knows_whether_the_causal_order_is_mask_enough(rows: str, branches: bool, is_plain: bool) -> None:
    batch = make_token_batch(PAIRS, PAD, ROWS[rows])
    assert (batch.branches, batch.is_plain) == (branches, is_plain)


def test_sequences_side_by_side_do_not_branch_and_need_a_mask() -> None:
    batch = make_token_batch(PAIRS[:2], PAD, [token_trees(PAIRS[:2])])
    assert (batch.branches, batch.is_plain) == (False, False)


def test_an_empty_reply_has_no_written_token() -> None:
    batch = make_token_batch([([7, 8], [])], PAD)
    assert (batch.input_ids.tolist(), batch.action_mask.any().item()) == ([[7, 8]], False)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a prompt must have a token at least, got none for the reply \[4\]"):
        make_token_batch([([], [4])], PAD)


tokens = st.lists(st.integers(1, 3), min_size=1, max_size=4)  # few tokens: beginnings repeat
pair_lists = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=20)
rules_of_rows = st.builds(RowRules, shared=st.booleans(), one_row=st.booleans(), quick=st.sampled_from([(), (4, 6)]))


@given(pair_lists, st.integers(1, 60), rules_of_rows)
def test_every_reply_is_predicted_from_its_prompt_and_what_it_has_written(
    pairs: list[Pair], budget: int, rules: RowRules
) -> None:
    for rows in plan_micro_batches(token_trees(pairs), budget, rules):
        batch = make_token_batch(pairs, PAD, rows)
        order = [index for row in rows for tree in row for index in tree.pairs]
        for number, (prompt, reply) in enumerate(pairs[index] for index in order):
            assert batch.reply_ids[number, : len(reply)].tolist() == list(reply)
            for place, source in enumerate(batch.source[number, : len(reply)].tolist()):
                assert seen(batch, source) == [*prompt, *reply[:place]]
                assert batch.position_ids.flatten()[source] == len(prompt) + place - 1


def seen(batch: TokenBatch, place: int) -> list[int]:
    """What a token attends to: as its mask says, and in plain rows also as the causal order does."""
    row, column = divmod(place, batch.input_ids.shape[1])
    tokens: list[int] = batch.input_ids[row][batch.attention_mask()[row, 0, column]].tolist()
    if batch.is_plain:
        assert batch.input_ids[row, : column + 1].tolist() == tokens
    return tokens


@given(pair_lists)
def test_a_batch_holds_every_distinct_beginning_once(pairs: list[Pair]) -> None:
    trees = token_trees(pairs)
    batch = make_token_batch(pairs, PAD, [trees])
    length = batch.input_ids.shape[1]
    paths = [tuple(batch.input_ids[0][batch.attention_mask()[0, 0, place]].tolist()) for place in range(length)]
    wholes = [(*prompt, *reply) for prompt, reply in pairs]
    assert sorted(paths) == sorted({whole[:end] for whole in wholes for end in range(1, len(whole) + 1)})


@given(pair_lists)
def test_a_subtree_ends_where_its_tokens_are_no_longer_on_the_path(pairs: list[Pair]) -> None:
    batch = make_token_batch(pairs, PAD, [token_trees(pairs)])
    positions = batch.position_ids[0]
    for place, until in enumerate(batch.until[0].tolist()):
        deeper = positions[place + 1 :] > positions[place]
        assert until == place + 1 + int(torch.cumprod(deeper.int(), 0).sum())
