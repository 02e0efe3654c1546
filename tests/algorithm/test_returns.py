import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm.returns import discounted_returns, episode_returns
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables


def returns_of(table: StepTable, discount: float) -> np.ndarray:
    return discounted_returns(table.reward, table.trajectory_id, table.step_index, discount=discount)


def test_three_rewards_by_hand() -> None:
    returns = discounted_returns(np.array([1.0, 2.0, 4.0]), np.zeros(3, int), np.arange(3), discount=0.5)
    np.testing.assert_array_equal(returns, [3.0, 4.0, 4.0])  # 1 + 2/2 + 4/4, 2 + 4/2, 4


def test_trajectories_do_not_leak_into_each_other() -> None:
    ids, steps = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    returns = discounted_returns(np.array([0.0, 4.0, 0.0, 8.0]), ids, steps, discount=0.5)
    np.testing.assert_array_equal(returns, [2.0, 4.0, 4.0, 8.0])


def test_rows_may_come_in_any_order() -> None:
    ids, steps = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])
    returns = discounted_returns(np.array([8.0, 4.0, 0.0, 0.0]), ids, steps, discount=0.5)
    np.testing.assert_array_equal(returns, [8.0, 4.0, 4.0, 2.0])


def test_a_gap_in_the_step_index_is_not_a_step() -> None:
    returns = discounted_returns(np.array([0.0, 8.0]), np.zeros(2, int), np.array([3, 7]), discount=0.5)
    np.testing.assert_array_equal(returns, [4.0, 8.0])


def test_equal_rewards_to_come_give_equal_returns_to_the_last_bit() -> None:
    ids, steps = np.repeat([0, 1], [11, 37]), np.r_[np.arange(11), np.arange(37)]
    rewards = np.r_[np.full(11, 0.1), np.full(26, 7.3), np.full(11, 0.1)]
    returns = discounted_returns(rewards, ids, steps, discount=0.95)
    np.testing.assert_array_equal(returns[:11], returns[-11:])


def test_no_rows_have_no_returns() -> None:
    none = np.zeros(0, int)
    assert discounted_returns(np.zeros(0), none, none, discount=0.9).shape == (0,)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_a_discount_out_of_range_is_refused(discount: float) -> None:
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\]"):
        discounted_returns(np.zeros(1), np.zeros(1, int), np.zeros(1, int), discount=discount)


@given(step_tables(), st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_every_row_obeys_the_recursion(table: StepTable, discount: float) -> None:
    returns = returns_of(table, discount)
    for row in range(len(table)):
        later = np.flatnonzero(
            (table.trajectory_id == table.trajectory_id[row]) & (table.step_index == table.step_index[row] + 1)
        )
        expected = table.reward[row] + discount * returns[later].sum()
        assert returns[row] == pytest.approx(expected, abs=1e-12)


@given(step_tables())
def test_without_discount_factor_returns_are_rewards(table: StepTable) -> None:
    np.testing.assert_array_equal(returns_of(table, 0.0), table.reward)


@given(step_tables())
def test_undiscounted_the_first_step_has_the_episode_return(table: StepTable) -> None:
    first = table.step_index == 0
    episode = episode_returns(table.reward, table.trajectory_id)
    np.testing.assert_allclose(returns_of(table, 1.0)[first], episode[first], atol=1e-12)


def test_the_same_rewards_in_another_order_give_the_same_episode_return_to_the_last_bit() -> None:
    rewards = np.array([0.1, 0.2, 0.3, -0.1, 0.7])
    returns = episode_returns(np.r_[rewards, rewards[::-1]], np.repeat([0, 1], 5))
    assert np.unique(returns).size == 1


@given(step_tables())
def test_the_episode_return_is_the_sum_of_its_rewards(table: StepTable) -> None:
    episode = episode_returns(table.reward, table.trajectory_id)
    for row in range(len(table)):
        own = table.trajectory_id == table.trajectory_id[row]
        assert episode[row] == pytest.approx(table.reward[own].sum(), abs=1e-12)
