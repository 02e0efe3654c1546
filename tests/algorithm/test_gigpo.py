from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from gigpo_lightning.algorithm import Credit, CreditEstimator, ExactGrouping, GiGPO, group_relative
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.oracle import oracle
from tests.algorithm.tables import step_tables, table_of, take, valid

PAPER: dict[str, Any] = {"episode_statistics": "trajectory", "penalty_placement": "reward"}
REFERENCE: dict[str, Any] = {"episode_statistics": "step", "penalty_placement": "step"}
MIXED: dict[str, Any] = {"episode_statistics": "step", "penalty_placement": "reward"}
COLUMNS = pytest.mark.parametrize("column", [PAPER, REFERENCE, MIXED], ids=["paper", "reference", "mixed"])

# One task, two episodes: one goes a-b-c and wins 8, the other a-b-a, its second action invalid, and wins nothing.
WON, LOST = valid("abc", [0, 0, 8]), [("a", 0.0, True), ("b", 0.0, False), ("a", 0.0, True)]
SIX_STEPS = table_of((0, WON), (0, LOST))
HALF: dict[str, Any] = {"discount": 0.5, "invalid_action_penalty": 0.5}


def test_the_episode_level_by_hand() -> None:
    credit = GiGPO(**HALF).estimate(SIX_STEPS)  # returns 8 and -0.5, mean 3.75
    np.testing.assert_array_equal(credit.episode_advantage, [4.25, 4.25, 4.25, -4.25, -4.25, -4.25])


def test_the_step_level_by_hand() -> None:
    credit = GiGPO(**HALF).estimate(SIX_STEPS)  # discounted 2 4 8 and -0.25 -0.5 0
    a = np.array([2.0, -0.25, 0.0]) - 1.75 / 3
    np.testing.assert_allclose(credit.step_advantage, [a[0], 2.25, 0.0, a[1], -2.25, a[2]], rtol=1e-15)


def test_the_levels_are_added_with_their_weight() -> None:
    credit = GiGPO(step_advantage_weight=2.0, **HALF).estimate(SIX_STEPS)
    np.testing.assert_array_equal(credit.advantage[[1, 2, 4]], [4.25 + 4.5, 4.25, -4.25 - 4.5])


def test_the_episode_level_can_be_left_out() -> None:
    credit = GiGPO(episode_advantage_weight=0.0, step_advantage_weight=2.0, **HALF).estimate(SIX_STEPS)
    np.testing.assert_array_equal(credit.advantage[[1, 2, 4]], [4.5, 0.0, -4.5])


def test_step_groups_by_hand() -> None:
    np.testing.assert_array_equal(GiGPO().estimate(SIX_STEPS).step_group_id, [0, 1, 2, 0, 1, 0])


def test_the_reference_takes_a_penalty_from_its_own_row_of_the_episode_level() -> None:
    credit = GiGPO(**HALF, **REFERENCE).estimate(SIX_STEPS)  # scores 8 8 8 0 -0.5 0
    np.testing.assert_allclose(credit.episode_advantage, np.array([8, 8, 8, 0, -0.5, 0]) - 23.5 / 6, rtol=1e-15)


def test_the_reference_does_not_discount_a_penalty_backwards() -> None:
    credit = GiGPO(**HALF, **REFERENCE).estimate(SIX_STEPS)  # returns 2 4 8 and 0 -0.5 0
    np.testing.assert_allclose(credit.step_advantage, [4 / 3, 2.25, 0, -2 / 3, -2.25, -2 / 3], rtol=1e-15)


def test_long_episodes_weigh_more_in_step_statistics() -> None:
    # Six wins of 15 steps and two losses of 50: mean 7.5 ± 4.63 over episodes, 4.74 ± 5.0 over steps.
    wins = [(0, valid("x" * 15, [0.0] * 14 + [10.0]))] * 6
    table = table_of(*wins, *[(0, valid("x" * 50, [0.0] * 50))] * 2)
    by_trajectory = GiGPO(scale_by_std=True).estimate(table).episode_advantage
    by_step = GiGPO(scale_by_std=True, **MIXED).estimate(table).episode_advantage
    ends = [by_trajectory[0], by_trajectory[-1], by_step[0], by_step[-1]]
    np.testing.assert_allclose(ends, [0.54, -1.62, 1.05, -0.95], atol=0.005)


@COLUMNS
@pytest.mark.parametrize("scale_by_std", [False, True])
@given(
    table=step_tables(),
    weight=st.sampled_from([0.0, 0.4, 1.0]),
    discount=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    own_step=st.booleans(),
)
def test_the_vector_code_equals_the_obvious_loops(
    table: StepTable, weight: float, discount: float, column: dict[str, Any], scale_by_std: bool, own_step: bool
) -> None:
    options: dict[str, Any] = {"step_advantage_weight": weight, "discount": discount, "scale_by_std": scale_by_std}
    options |= {"invalid_action_penalty": 0.1, "own_step_penalty": own_step, **column}
    credit = GiGPO(**options).estimate(table)
    for name, expected in zip(
        ("advantage", "episode_advantage", "step_advantage"), oracle(table, **options), strict=True
    ):
        np.testing.assert_allclose(getattr(credit, name), expected, atol=1e-8, err_msg=name)


@given(step_tables())
def test_episode_advantages_sum_to_zero_over_the_trajectories_of_a_group(table: StepTable) -> None:
    episode = GiGPO().estimate(table).episode_advantage
    firsts = table.step_index == 0
    np.testing.assert_allclose(np.bincount(table.episode_group_id[firsts], episode[firsts]), 0.0, atol=1e-9)


@given(step_tables())
def test_step_advantages_sum_to_zero_over_the_steps_of_an_anchor_group(table: StepTable) -> None:
    credit = GiGPO(scale_by_std=True).estimate(table)
    np.testing.assert_allclose(np.bincount(credit.step_group_id, credit.step_advantage), 0.0, atol=1e-6)


@given(step_tables(), st.sampled_from([-3.0, 0.5, 16.0]))
def test_a_constant_bonus_to_every_episode_changes_nothing_at_episode_level(table: StepTable, bonus: float) -> None:
    paid = replace(table, reward=table.reward + np.where(table.step_index == 0, bonus, 0.0))
    plain = GiGPO().estimate(table).episode_advantage
    np.testing.assert_allclose(GiGPO().estimate(paid).episode_advantage, plain, atol=1e-9)


@COLUMNS
@given(table=step_tables(), random=st.randoms(use_true_random=False))
def test_row_order_changes_nothing_to_the_last_bit(table: StepTable, random: Random, column: dict[str, Any]) -> None:
    order = random.sample(range(len(table)), len(table))
    estimator = GiGPO(scale_by_std=True, **column)
    shuffled, credit = estimator.estimate(take(table, order)), estimator.estimate(table)
    for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(credit, name)[order], err_msg=name)


@COLUMNS
@given(table=step_tables())
def test_where_no_state_repeats_the_step_level_vanishes(table: StepTable, column: dict[str, Any]) -> None:
    unique = replace(table, anchor_key=np.arange(len(table)).astype(object))
    credit = GiGPO(scale_by_std=True, **column).estimate(unique)
    np.testing.assert_array_equal(credit.advantage, credit.episode_advantage)


@given(step_tables())
def test_without_discount_factor_the_step_level_compares_rewards(table: StepTable) -> None:
    credit = GiGPO(discount=0.0, invalid_action_penalty=0.0).estimate(table)
    expected = group_relative(table.reward, credit.step_group_id)
    np.testing.assert_allclose(credit.step_advantage, expected, atol=1e-12)


@COLUMNS
@pytest.mark.parametrize("size", [2, 3, 5, 7, 8, 12, 16, 33, 64])
def test_episodes_that_all_went_alike_teach_nothing(size: int, column: dict[str, Any]) -> None:
    episode = valid("abcde", [0.0, 0.1, 0.0, 0.3, 9.7])
    credit = GiGPO(scale_by_std=True, **column).estimate(table_of(*[(0, episode)] * size))
    assert not credit.advantage.any()


@pytest.mark.parametrize("num_invalid", range(1, 13))
def test_equal_returns_by_other_steps_teach_exactly_nothing_at_episode_level(num_invalid: int) -> None:
    early = [("a", 0.0, False)] * num_invalid + [("b", 1.0, True)]
    late = [("a", 0.0, False)] * (num_invalid - 1) + [("c", 0.0, True), ("b", 1.0, False)]
    credit = GiGPO(scale_by_std=True).estimate(table_of((0, early), (0, late)))
    assert not credit.episode_advantage.any()


@COLUMNS
@given(table=step_tables(), task=st.sampled_from([1, 3, 5]))
def test_what_happens_in_one_task_says_nothing_of_another(table: StepTable, task: int, column: dict[str, Any]) -> None:
    others = table.episode_group_id != task
    richer = replace(table, reward=np.where(others, table.reward, 7 * table.reward + table.step_index))
    estimator = GiGPO(scale_by_std=True, **column)
    np.testing.assert_array_equal(
        estimator.estimate(richer).advantage[others], estimator.estimate(table).advantage[others]
    )


@COLUMNS
@given(table=step_tables())
def test_the_numbers_given_to_groups_and_trajectories_do_not_matter(table: StepTable, column: dict[str, Any]) -> None:
    renamed = replace(
        table, episode_group_id=10**12 - table.episode_group_id, trajectory_id=10**15 - 7 * table.trajectory_id
    )
    estimator = GiGPO(scale_by_std=True, **column)
    ours, theirs = estimator.estimate(table).advantage, estimator.estimate(renamed).advantage
    np.testing.assert_allclose(theirs, ours, atol=1e-9)  # sums are made in the order of the numbers


LONE_EPISODE = table_of((0, valid("ab", [0, 5])), (1, valid("a", [3])))


def test_a_lone_episode_gets_no_episode_advantage_under_trajectory_statistics() -> None:
    assert not GiGPO(scale_by_std=True).estimate(LONE_EPISODE).episode_advantage.any()


@pytest.mark.parametrize("scale_by_std", [False, True])
def test_a_lone_row_keeps_its_raw_score_under_step_statistics(scale_by_std: bool) -> None:
    credit = GiGPO(scale_by_std=scale_by_std, **MIXED).estimate(LONE_EPISODE)
    assert credit.episode_advantage[2] == 3.0


def test_the_raw_score_of_a_lone_row_carries_its_penalty() -> None:
    credit = GiGPO(**HALF, **REFERENCE).estimate(table_of((0, [("a", 3.0, False)])))
    assert credit.advantage[0] == 2.5


def test_a_lone_episode_of_two_rows_is_not_a_lone_row() -> None:
    credit = GiGPO(**MIXED).estimate(LONE_EPISODE)
    np.testing.assert_array_equal(credit.episode_advantage[:2], [0.0, 0.0])


@COLUMNS
def test_an_invalid_action_costs(column: dict[str, Any]) -> None:
    table = table_of((0, [("a", 1.0, True)]), (0, [("a", 1.0, False)]))
    np.testing.assert_array_equal(GiGPO(**HALF, **column).estimate(table).advantage, [0.5, -0.5])


def test_the_table_is_not_changed() -> None:
    GiGPO(**HALF, **REFERENCE).estimate(SIX_STEPS)
    np.testing.assert_array_equal(SIX_STEPS.reward, [0, 0, 8, 0, 0, 0])


def test_the_anchor_metrics_are_those_of_the_credit() -> None:
    assert GiGPO().estimate(SIX_STEPS).metrics["anchors/group_size_mean"] == 2.0


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="table must have at least one row, got 0"):
        GiGPO().estimate(StepTable.from_groups([]))


def test_a_grouping_that_mixes_tasks_is_refused() -> None:
    class ByAnchorAlone:
        def group(self, table: StepTable) -> np.ndarray:
            return np.unique(table.anchor_key.astype(str), return_inverse=True)[1]

    with pytest.raises(ValueError, match="ByAnchorAlone put rows of episode groups"):
        GiGPO(grouping=ByAnchorAlone()).estimate(LONE_EPISODE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.01}, r"discount must be in \[0, 1\], got 1.01"),
        ({"discount": float("nan")}, "discount must be"),
        ({"step_advantage_weight": -1.0}, "step_advantage_weight must be >= 0, got -1.0"),
        ({"step_advantage_weight": float("inf")}, "step_advantage_weight must be"),
        ({"invalid_action_penalty": -0.1}, r"invalid_action_penalty must be >= 0 \(it is subtracted\), got -0.1"),
        ({"penalty_placement": "step"}, "penalty_placement must be 'reward' with episode_statistics='trajectory'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GiGPO(**options)


class PlainEstimator:
    """The least that a user writes: no base class, no jaxtyping."""

    def estimate(self, table: StepTable) -> Credit:
        return GiGPO().estimate(table)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def parsed_credit(*arguments: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--credit", type=CreditEstimator)
    return parser.instantiate(parser.parse_args(list(arguments))).credit


def test_yaml_builds_it_with_its_grouping() -> None:
    credit = parsed_credit(
        "--credit=gigpo_lightning.algorithm.GiGPO",
        "--credit.discount=0.5",
        "--credit.grouping=gigpo_lightning.algorithm.ExactGrouping",
    )
    assert (credit.discount, type(credit.grouping)) == (0.5, ExactGrouping)


def test_yaml_takes_an_estimator_of_ones_own() -> None:
    assert isinstance(parsed_credit("--credit=tests.algorithm.test_gigpo.PlainEstimator"), PlainEstimator)


def test_yaml_needs_no_grouping() -> None:
    credit = parsed_credit("--credit=gigpo_lightning.algorithm.GiGPO").estimate(SIX_STEPS)
    np.testing.assert_array_equal(credit.step_group_id, [0, 1, 2, 0, 1, 0])


def test_it_remembers_nothing() -> None:
    assert GiGPO().state_dict() == {}
