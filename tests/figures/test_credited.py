"""Every episode gets its own rows of the credit, and the group that is drawn is the one with most to show."""

import dataclasses

import numpy as np
import pytest

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.figures import credited_groups, most_varied_group
from gigpo_lightning.trajectory import StepTable
from tests.figures.groups import credited, group_of

GROUPS = (group_of(("ab", 0.0), ("abc", 9.0)), group_of(("xyz", 0.0), ("x", 0.0)))


def test_each_episode_has_its_own_rows_in_the_table_s_order():
    credit = GiGPO().estimate(StepTable.from_groups(GROUPS))
    episodes = [episode for group in credited_groups(GROUPS, credit) for episode in group]
    assert [len(each.advantage) for each in episodes] == [2, 3, 3, 1]
    for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
        np.testing.assert_array_equal(np.concatenate([getattr(each, name) for each in episodes]), getattr(credit, name))


def test_a_step_knows_the_size_of_its_anchor_group():
    (first, second), (third, fourth) = credited(*GROUPS)
    assert [each.group_size.tolist() for each in (first, second, third, fourth)] == [[2, 2], [2, 2, 1], [2, 1, 1], [2]]


def test_credit_of_other_episodes_is_refused():
    credit = GiGPO().estimate(StepTable.from_groups(GROUPS[:1]))
    with pytest.raises(ValueError, match="credit must have a row for each of the 9 steps, got 5 rows"):
        credited_groups(GROUPS, credit)


@pytest.mark.parametrize("name", ["advantage", "episode_advantage", "step_advantage"])
def test_an_advantage_that_is_not_finite_is_refused_by_name_and_row(name: str):
    credit = GiGPO().estimate(StepTable.from_groups(GROUPS))
    values = getattr(credit, name).copy()
    values[3] = np.nan
    with pytest.raises(ValueError, match=f"credit.{name} must be finite, got nan in row 3"):
        credited_groups(GROUPS, dataclasses.replace(credit, **{name: values}))


def test_mixed_outcomes_have_more_to_compare_than_many_shared_states():
    mixed, alike = group_of(("a", 0.0), ("b", 9.0)), group_of(("abcdef", 0.0), ("abcdef", 0.0))
    assert most_varied_group(credited(alike, mixed)) == 1


def test_unequal_returns_have_more_to_compare_than_equal_ones():
    unequal, equal = group_of(("a", 9.0), ("b", 5.0)), group_of(("abc", 9.0), ("abc", 9.0))
    assert most_varied_group(credited(equal, unequal)) == 1


def test_of_mixed_groups_the_one_that_shares_most_states_is_chosen_however_often_one_of_them_is_met():
    often, many = group_of(("aaaaaaaa", 0.0), ("aaaa", 9.0)), group_of(("abc", 0.0), ("abx", 9.0))
    assert most_varied_group(credited(often, many)) == 1


def test_of_equal_groups_the_first_is_chosen():
    group = group_of(("ab", 0.0), ("ab", 9.0))
    assert most_varied_group(credited(group, group, group)) == 0


def test_a_state_that_one_episode_meets_twice_is_not_shared():
    alone, shared = group_of(("aab", 0.0), ("cd", 9.0)), group_of(("abc", 0.0), ("cde", 9.0))
    assert most_varied_group(credited(alone, shared)) == 1


def test_no_group_is_refused():
    with pytest.raises(ValueError, match="groups must have at least one group, got 0"):
        most_varied_group([])
