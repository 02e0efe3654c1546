"""Token trees: every distinct beginning once, cut where the least is repeated, in rows within the budget."""

import sys
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.token_trees import Pair, RowRules, TokenTree, cut, in_rows, plan_micro_batches, token_trees

SHORT, SIDE, MIXED = RowRules(), RowRules(one_row=True), RowRules(one_row=True, quick=(4, 6))
PLAIN, FLASH = RowRules(shared=False), RowRules(shared=False, one_row=True)
RULES = [SHORT, SIDE, MIXED, PLAIN, FLASH]

tokens = st.lists(st.integers(1, 2), min_size=1, max_size=4)  # two tokens: beginnings repeat
pair_lists = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=16)
rules_of_rows = st.sampled_from(RULES)


def rebuilt(tree: TokenTree, pairs: list[Pair]) -> list[list[int]]:
    """Every sequence of a tree, of what it shares with the one before and what it adds."""
    sequences: list[list[int]] = []
    for index, length, shared in zip(tree.pairs, tree.lengths, tree.shared, strict=True):
        whole = [*pairs[index][0], *pairs[index][1]]
        assert len(whole) == length
        sequences.append([*(sequences[-1] if sequences else [])[:shared], *whole[shared:]])
    return sequences


def prefixes(pairs: list[Pair], tasks: list[int]) -> set[tuple[int, ...]]:
    """Distinct beginnings, each with its task in front."""
    wholes = [(task, *prompt, *reply) for task, (prompt, reply) in zip(tasks, pairs, strict=True)]
    return {whole[:end] for whole in wholes for end in range(2, len(whole) + 1)}


def test_a_conversation_is_one_path_by_hand() -> None:
    (tree,) = token_trees([([1, 2], [3]), ([1, 2, 3, 4], [5]), ([1], [2])])
    assert (tree.pairs, tree.lengths, tree.shared) == ((2, 0, 1), (2, 3, 5), (0, 2, 3))
    assert (tree.num_tokens, tree.branches) == (5, False)


def test_two_replies_branch_by_hand() -> None:
    (tree,) = token_trees([([1, 2], [3, 4]), ([1, 2], [7])])
    assert (tree.shared, tree.num_tokens, tree.branches) == ((0, 2), 5, True)


def test_equal_replies_are_there_once() -> None:
    (tree,) = token_trees([([1], [2, 3])] * 3)
    assert (tree.shared, tree.num_tokens) == ((0, 3, 3), 3)


def test_large_token_ids_are_sorted_as_numbers() -> None:
    pairs = [([1], [token]) for token in (256, 1, 65_536, 255, 151_935)]
    (tree,) = token_trees(pairs)
    assert [pairs[index][1][0] for index in tree.pairs] == [1, 255, 256, 65_536, 151_935]


def test_different_tasks_share_nothing() -> None:
    trees = token_trees([([1, 2], [3]), ([1, 2], [3]), ([1, 2], [4])], ["b", "a", "b"])
    assert [tree.pairs for tree in trees] == [(0, 2), (1,)]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a prompt must have a token at least, got none for the reply \[4\]"):
        token_trees([([], [4])])


@given(pair_lists, st.lists(st.integers(0, 1), min_size=16, max_size=16))
def test_trees_hold_every_distinct_beginning_once(pairs: list[Pair], owners: list[int]) -> None:
    trees = token_trees(pairs, owners[: len(pairs)])
    assert sum(tree.num_tokens for tree in trees) == len(prefixes(pairs, owners[: len(pairs)]))
    for tree in trees:
        for index, sequence in zip(tree.pairs, rebuilt(tree, pairs), strict=True):
            assert sequence == [*pairs[index][0], *pairs[index][1]]


@given(pair_lists, st.integers(1, 40), rules_of_rows)
def test_micro_batches_hold_every_pair_once(pairs: list[Pair], budget: int, rules: RowRules) -> None:
    plan = plan_micro_batches(token_trees(pairs), budget, rules)
    assert sorted(i for part in plan for row in part for tree in row for i in tree.pairs) == list(range(len(pairs)))
    for tree in [tree for part in plan for row in part for tree in row]:
        assert [len(each) for each in rebuilt(tree, pairs)] == list(tree.lengths)


@given(pair_lists, st.integers(1, 40), rules_of_rows)
def test_only_one_path_may_exceed_the_budget(pairs: list[Pair], budget: int, rules: RowRules) -> None:
    for part in plan_micro_batches(token_trees(pairs), budget, rules):
        trees = [tree for row in part for tree in row]
        size = len(part) * max(sum(tree.num_tokens for tree in row) for row in part)
        assert size <= budget or (len(trees) == 1 and not trees[0].branches)


@given(pair_lists)
def test_nothing_is_repeated_where_everything_fits_side_by_side(pairs: list[Pair]) -> None:
    assert laid(pairs, SIDE) == len(prefixes(pairs, [0] * len(pairs)))


@given(pair_lists)
def test_for_small_trees_a_sixteenth_is_repeated_at_most(pairs: list[Pair]) -> None:
    assert laid(pairs, MIXED) <= 17 / 16 * len(prefixes(pairs, [0] * len(pairs)))


@given(pair_lists)
def test_without_sharing_every_sequence_is_whole(pairs: list[Pair]) -> None:
    assert laid(pairs, PLAIN) == laid(pairs, FLASH) == sum(len(prompt) + len(reply) for prompt, reply in pairs)


def laid(pairs: list[Pair], rules: RowRules) -> int:
    """Tokens in rows, without what fills them up."""
    plan = plan_micro_batches(token_trees(pairs), 10_000, rules)
    return sum(tree.num_tokens for part in plan for row in part for tree in row)


def test_a_large_tree_becomes_small_ones_only_if_that_repeats_little() -> None:
    rules = RowRules(one_row=True, quick=(15, 30))
    little = token_trees([([1], [2, *[3] * 20]), ([1], [4, *[3] * 20])])  # two parts repeat one token of 43
    much = token_trees([([1] * 20, [2, *[3] * 5]), ([1] * 20, [4, *[3] * 5])])  # 20 of 32
    assert [[part.num_tokens for part in cut(trees, 100, rules)] for trees in (little, much)] == [[22, 22], [32]]


@given(pair_lists)
def test_a_short_row_is_at_most_twice_as_long_as_its_tree_s_longest_sequence(pairs: list[Pair]) -> None:
    for tree in token_trees(pairs):
        assert all(part.num_tokens <= 2 * max(tree.lengths) for part in cut([tree], 10_000, SHORT))


@given(pair_lists, st.integers(4, 12))
def test_a_tree_is_cut_where_the_least_is_repeated(pairs: list[Pair], budget: int) -> None:
    def fits(part: TokenTree) -> bool:
        return part.num_tokens <= max(budget, max(part.lengths))

    for tree in token_trees(pairs[:9]):
        places = range(1, len(tree.pairs))
        every_way = [bounds for number in range(len(tree.pairs)) for bounds in combinations(places, number)]
        parts = [[tree.part(a, b) for a, b in pairwise([0, *bounds, len(tree.pairs)])] for bounds in every_way]
        best = min((sum(part.num_tokens for part in way), len(way)) for way in parts if all(fits(part) for part in way))
        made = list(cut([tree], budget, SIDE))
        assert (sum(part.num_tokens for part in made), len(made)) == best


@given(pair_lists, st.integers(4, 60))
def test_gaps_are_filled_with_smaller_trees(pairs: list[Pair], budget: int) -> None:
    """Packing never takes more room than a row for each tree would in the same micro-batches."""
    trees = token_trees(pairs, range(len(pairs)))  # nothing shared: only the packing counts
    branching = token_trees([([9], [1]), ([9], [2])])  # so that trees are packed at all
    for part in plan_micro_batches([*trees, *branching], budget, SHORT):
        longest = max(sum(tree.num_tokens for tree in row) for row in part)
        assert longest == max(tree.num_tokens for row in part for tree in row)
        for one, other in combinations(part, 2):
            assert sum(tree.num_tokens for tree in [*one, *other]) > longest  # else one row would have done


def test_plain_rows_of_like_length_lie_together() -> None:
    pairs = [([1], [1] * size) for size in (5, 1, 4, 1)]
    plan = plan_micro_batches(token_trees(pairs), 12, PLAIN)
    assert [[row[0].pairs for row in part] for part in plan] == [[(1,), (3,)], [(2,), (0,)]]


def test_trees_lie_side_by_side_as_far_as_the_budget_goes() -> None:
    pairs = [([number], [1] * size) for number, size in enumerate((8, 2, 9, 2))]
    plan = plan_micro_batches(token_trees(pairs), 20, SIDE)
    assert [[[tree.num_tokens for tree in row] for row in part] for part in plan] == [[[3, 3, 9]], [[10]]]


def test_one_batch_takes_all_rows() -> None:
    trees = token_trees([([1], [2, 3]), ([2], [3, 4, 5, 6, 7, 8])])
    assert [len(in_rows(trees, rules)) for rules in RULES] == [2, 1, 1, 2, 1]


def test_a_budget_may_be_used_up() -> None:
    trees = token_trees([([1], [2, 3]), ([2], [3, 4])])
    assert [[row[0].pairs for row in part] for part in plan_micro_batches(trees, 6)] == [[(0,), (1,)]]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget must be >= 1, got 0"):
        plan_micro_batches([], 0)


@pytest.mark.parametrize("rules", RULES)
def test_planning_makes_as_many_calls_whatever_the_sequences_length_and_twice_as_many_for_twice_as_many(
    rules: RowRules,
) -> None:
    few, long, many = (calls(number, scale, rules) for number, scale in ((100, 1), (100, 20), (200, 1)))
    assert long <= 1.1 * few  # a loop over tokens would make twenty times as many
    assert many <= 2.2 * few


def calls(number: int, scale: int, rules: RowRules) -> int:
    """Calls of Python and C functions while so many conversations of three turns are planned."""
    pairs = [
        ([1 + task % 10] * 4 * scale + [task % 7, turn] * turn * scale, [task % 3 + 1] * scale)
        for task in range(number)
        for turn in range(1, 4)
    ]
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        plan_micro_batches(
            token_trees(pairs, [task % 10 for task in range(number) for _ in range(3)]), 60 * scale, rules
        )
    finally:
        sys.setprofile(before)
    return counted
