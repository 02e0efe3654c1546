from collections.abc import Sequence
from difflib import SequenceMatcher
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from gigpo_lightning.algorithm import ExactGrouping, Grouping, SimilarityGrouping
from gigpo_lightning.algorithm.grouping import checked_groups
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, take, valid


class FixedGrouping:
    """A user's own grouping, however wrong."""

    def __init__(self, ids: Sequence[float]) -> None:
        self.ids = np.array(ids)

    def group(self, table: StepTable) -> np.ndarray:
        return self.ids


TWO_TASKS = table_of((0, valid("ab", [0, 0])), (1, valid("ab", [0, 0])))


def test_equal_anchors_of_one_task_share_a_group() -> None:
    table = table_of((0, valid("ab", [0, 0])), (0, valid("ba", [0, 0])))
    np.testing.assert_array_equal(ExactGrouping().group(table), [0, 1, 1, 0])


def test_equal_anchors_of_two_tasks_do_not() -> None:
    np.testing.assert_array_equal(ExactGrouping().group(TWO_TASKS), [0, 1, 2, 3])


def test_a_state_visited_twice_in_one_trajectory_is_compared_with_itself() -> None:
    table = table_of((0, valid("aba", [0, 0, 0])))
    np.testing.assert_array_equal(ExactGrouping().group(table), [0, 1, 0])


def test_anchors_may_be_any_hashable() -> None:
    steps = [((1, 2), 0.0, True), ("x", 0.0, True), ((1, 2), 0.0, True), (7, 0.0, True)]
    np.testing.assert_array_equal(ExactGrouping().group(table_of((0, steps))), [0, 1, 0, 2])


@given(step_tables())
def test_rows_share_a_group_exactly_if_they_share_task_and_anchor(table: StepTable) -> None:
    ids = ExactGrouping().group(table)
    same_task = table.episode_group_id[:, None] == table.episode_group_id[None, :]
    same_anchor = table.anchor_key[:, None] == table.anchor_key[None, :]
    np.testing.assert_array_equal(ids[:, None] == ids[None, :], same_task & same_anchor)


@given(step_tables(), st.randoms())
def test_the_numbers_of_the_groups_do_not_depend_on_row_order(table: StepTable, random: Random) -> None:
    order = random.sample(range(len(table)), len(table))
    np.testing.assert_array_equal(ExactGrouping().group(take(table, order)), ExactGrouping().group(table)[order])


@given(step_tables())
def test_exact_groups_pass_the_check_for_groupings(table: StepTable) -> None:
    np.testing.assert_array_equal(checked_groups(ExactGrouping(), table), ExactGrouping().group(table))


def test_a_grouping_of_ones_own_is_a_grouping() -> None:
    assert isinstance(FixedGrouping([0]), Grouping)


def test_a_grouping_that_mixes_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep episode groups apart, but FixedGrouping .* 0 and 1 into step group 0"):
        checked_groups(FixedGrouping([0, 1, 0, 2]), TWO_TASKS)


@pytest.mark.parametrize("ids", [[0, 1, 3, 4], [-1, 0, 1, 2], [0, 1, 2, 10**15]])
def test_a_grouping_with_gaps_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        checked_groups(FixedGrouping(ids), TWO_TASKS)


def test_a_grouping_into_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match="grouping must give integers, but FixedGrouping gave float64"):
        checked_groups(FixedGrouping([0.0, 1.0, 2.0, 3.0]), TWO_TASKS)


def test_a_grouping_that_forgets_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one id per row, but FixedGrouping gave shape \(2,\) for 4 rows"):
        checked_groups(FixedGrouping([0, 1]), TWO_TASKS)


def page(*changes: str) -> str:
    """Thirty lines of text, some of them changed."""
    lines = [f"line {number} says that the {word} is open" for number, word in enumerate("abcdefghijklmnopqrstuvwxyz")]
    return "\n".join([*changes, *lines[len(changes) :]])


def similar(*anchors: str) -> StepTable:
    """One episode that sees one observation after the other."""
    return table_of((0, [(anchor, 0.0, True) for anchor in anchors]))


def reference_rule(table: StepTable, threshold: float) -> np.ndarray:
    """The reference's loops, with nothing but difflib: greedy, against the founder of each cluster."""
    founders: list[tuple[int, str]] = []
    ids = np.empty(len(table), dtype=np.int64)
    for row in np.lexsort((table.step_index, table.trajectory_id)):
        task, text = int(table.episode_group_id[row]), table.anchor_key[row]
        for number, (other_task, founder) in enumerate(founders):
            if task == other_task and SequenceMatcher(None, text, founder).ratio() >= threshold:
                ids[row] = number
                break
        else:
            ids[row] = len(founders)
            founders.append((task, text))
    return ids


def test_like_pages_share_a_group_and_unlike_ones_do_not() -> None:
    table = similar(page(), page("something else"), "nothing of the sort", page("a", "b", "c", "d", "e", "f"))
    np.testing.assert_array_equal(SimilarityGrouping(0.9).group(table), [0, 0, 1, 2])


def test_a_page_is_compared_with_the_founder_alone() -> None:
    # Each differs from the last by two characters; the third is too far from the first, however near to the second.
    steps = similar("aaaaaaaaaa", "aaaaaaaabb", "aaaaaabbbb")
    np.testing.assert_array_equal(SimilarityGrouping(0.8).group(steps), [0, 0, 1])


def test_like_pages_of_two_tasks_do_not_share_a_group() -> None:
    table = table_of((0, [(page(), 0.0, True)]), (1, [(page(), 0.0, True)]))
    np.testing.assert_array_equal(SimilarityGrouping(0.5).group(table), [0, 1])


texts = st.text(alphabet="ab c", max_size=12)
near = st.tuples(st.integers(0, 25), st.sampled_from(["x", "the door", "line 3"])).map(lambda c: page(*[c[1]] * c[0]))


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.95, 1.0])
@given(anchors=st.lists(st.tuples(st.sampled_from([0, 1]), texts | near), min_size=1, max_size=8), data=st.data())
def test_the_groups_are_those_of_the_reference_s_rule(
    threshold: float, anchors: list[tuple[int, str]], data: st.DataObject
) -> None:
    table = table_of(*((task, [(text, 0.0, True)]) for task, text in anchors))
    table = take(table, data.draw(st.permutations(range(len(table)))))
    np.testing.assert_array_equal(SimilarityGrouping(threshold).group(table), reference_rule(table, threshold))


@given(step_tables(), st.randoms())
def test_groups_of_like_states_do_not_depend_on_row_order(table: StepTable, random: Random) -> None:
    order = random.sample(range(len(table)), len(table))
    grouping = SimilarityGrouping(0.5)
    np.testing.assert_array_equal(grouping.group(take(table, order)), grouping.group(table)[order])


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_longest_common_subsequence_bounds_difflib_s_ratio(text: str, founder: str) -> None:
    total = len(text) + len(founder)
    bound = 2.0 * LCSseq.similarity(text, founder) / total if total else 1.0
    assert SequenceMatcher(None, text, founder).ratio() <= bound


@pytest.mark.parametrize("grouping", [ExactGrouping(exclude_empty=True), SimilarityGrouping(exclude_empty=True)])
def test_states_that_say_nothing_are_left_alone_if_asked_for(grouping: Grouping) -> None:
    np.testing.assert_array_equal(grouping.group(similar("", "a", " \n", "a", "")), [0, 1, 2, 1, 3])


@pytest.mark.parametrize("grouping", [ExactGrouping(), SimilarityGrouping()])
def test_otherwise_they_share_a_group_as_any_other_state(grouping: Grouping) -> None:
    np.testing.assert_array_equal(grouping.group(similar("", "a", "")), [0, 1, 0])


def test_what_is_no_text_may_say_nothing_too() -> None:
    table = table_of((0, [(None, 0.0, True), ((), 0.0, True), (None, 0.0, True), (0, 0.0, True), (0, 0.0, True)]))
    np.testing.assert_array_equal(ExactGrouping(exclude_empty=True).group(table), [0, 1, 2, 3, 3])


def test_similarity_of_what_is_no_text_is_refused_by_its_row() -> None:
    table = table_of((0, [("a", 0.0, True), ((1, 2), 0.0, True)]))
    with pytest.raises(ValueError, match=r"column anchor_key must be text .* got \(1, 2\) in row 1; use ExactGrouping"):
        SimilarityGrouping().group(table)


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be in"):
        SimilarityGrouping(threshold)
