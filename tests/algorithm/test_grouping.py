from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import ExactGrouping, Grouping
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


@pytest.mark.parametrize("ids", [[0, 1, 3, 4], [-1, 0, 1, 2]])
def test_a_grouping_with_gaps_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        checked_groups(FixedGrouping(ids), TWO_TASKS)


def test_a_grouping_into_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match="grouping must give integers, but FixedGrouping gave float64"):
        checked_groups(FixedGrouping([0.0, 1.0, 2.0, 3.0]), TWO_TASKS)


def test_a_grouping_that_forgets_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one id per row, but FixedGrouping gave shape \(2,\) for 4 rows"):
        checked_groups(FixedGrouping([0, 1]), TWO_TASKS)
