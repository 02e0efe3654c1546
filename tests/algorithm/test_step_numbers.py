"""VPR, A2TGPO and ReBel: credit from a number of every step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gigpo_lightning.algorithm import A2TGPO, VPR, CreditEstimator, ReBel, check_estimator
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import table_of, valid, won

NAN = float("nan")


def scored(table: StepTable, *numbers: float, name: str = "progress") -> StepTable:
    return replace(table, scores={name: np.array(numbers)})


def lone_steps(rewards: list[float]) -> StepTable:
    """An episode of one step for each reward, of as many tasks."""
    return table_of(*((task, valid("a", [reward])) for task, reward in enumerate(rewards)))


class TestVPR:
    def test_a_turn_s_rewards_by_hand(self) -> None:
        advantage = VPR().estimate(lone_steps([1, 0, 1, 0, 0])).advantage
        np.testing.assert_allclose(advantage, [1.22474, -0.81650, 1.22474, -0.81650, -0.81650], atol=1e-5)

    def test_a_turn_that_few_rows_have_is_compared_with_the_batch(self) -> None:
        # Turn 0: 1 0 1 0, mean and deviation .5. Turn 1: 2 alone; the batch 1 0 1 0 2 has mean .8, deviation √.56.
        episodes = [(task, valid("a", [reward])) for task, reward in enumerate([1.0, 0.0, 1.0])]
        table = table_of(*episodes, (3, valid("ab", [0, 2])))
        expected = [1, -1, 1, -1, 1.2 / 0.56**0.5]
        np.testing.assert_allclose(VPR().estimate(table).advantage, expected, atol=1e-5)

    def test_a_success_adds_to_its_last_step(self) -> None:
        table = won(lone_steps([0, 0, 0, 0]), 0)
        np.testing.assert_allclose(
            VPR(outcome_scale=2.0).estimate(table).advantage * 3**0.5, [3, -1, -1, -1], rtol=1e-5
        )

    def test_an_invalid_step_pays_itself(self) -> None:
        table = replace(lone_steps([1, 1, 1, 1]), valid_action=np.array([False, True, True, True]))
        np.testing.assert_allclose(VPR().estimate(table).advantage * 3**0.5, [-3, 1, 1, 1], rtol=1e-4)

    def test_a_step_without_a_score_gets_nothing_and_says_nothing(self) -> None:
        table = scored(lone_steps([0, 0, 0, 0, 0, 9]), 1, 0, 1, 0, 0, NAN)
        advantage = VPR(process_reward="progress").estimate(table).advantage
        np.testing.assert_allclose(advantage, [1.22474, -0.81650, 1.22474, -0.81650, -0.81650, 0], atol=1e-5)

    def test_where_no_step_has_a_score_nothing_is_learnt(self) -> None:
        assert not VPR(process_reward="progress").estimate(scored(lone_steps([1, 0]), NAN, NAN)).advantage.any()


# One task, two episodes of four turns: three searches, then the answer. The first tells as in the specification.
SEARCHES = table_of((0, valid("abcd", [0, 0, 0, 1])), (0, valid("abcd", [0, 0, 0, 0])))
GAINS = [1.0, -0.5, 2.0]


class TestA2TGPO:
    def test_gains_are_compared_turn_by_turn_by_hand(self) -> None:
        # Turn 0: .4 and .2, deviation .1414; turn 1: 0 and .6; turn 2: .3 twice. Compared: ±.7071, ∓.7071, 0.
        table = scored(SEARCHES, 0.4, 0.0, 0.3, NAN, 0.2, 0.6, 0.3, NAN)
        credit = A2TGPO(information_gain="progress").estimate(table)
        half = 0.5**0.5
        expected = [0.0, -half / 2**0.5, 0.0, 0.0]  # (h - h)/√3, (-h + 0)/√2, 0/√1, and no gain after that
        np.testing.assert_allclose(credit.step_advantage[:4], expected, atol=1e-4)
        np.testing.assert_allclose(credit.episode_advantage, [0.5] * 4 + [-0.5] * 4)
        np.testing.assert_allclose(credit.advantage, credit.episode_advantage + 0.3 * credit.step_advantage)

    def test_accumulation_and_clip_ranges_by_hand(self) -> None:
        # Nine episodes; in each turn the others' gains leave mean 0 and deviation 1, so that gains are what they were.
        columns = [unit_company(gain) for gain in GAINS]
        table = table_of(*[(0, valid("abcd", [0, 0, 0, 0]))] * len(columns[0]))
        gains = [number for episode in zip(*columns, strict=True) for number in (*episode, NAN)]
        credit = A2TGPO(information_gain="progress").estimate(scored(table, *gains))
        np.testing.assert_allclose(credit.step_advantage[:4], [1.44338, 1.06066, 2.0, 0.0], atol=1e-5)
        assert credit.clip_scale is not None
        np.testing.assert_allclose(credit.clip_scale[:4], [1.13864, 0.92652, 1.22848, 1.0], atol=1e-5)

    def test_rewards_of_all_steps_but_the_last_are_gains_by_default(self) -> None:
        gains = [0.4, 0.0, 0.3, NAN, 0.2, 0.6, 0.3, NAN]
        rewards = np.where(np.isnan(gains), SEARCHES.reward, gains)
        named = A2TGPO(information_gain="progress").estimate(scored(SEARCHES, *gains))
        plain = A2TGPO().estimate(replace(SEARCHES, reward=rewards))
        np.testing.assert_array_equal(plain.advantage, named.advantage)

    def test_the_population_s_deviation_is_an_option(self) -> None:
        table = scored(SEARCHES, 0.4, NAN, NAN, NAN, 0.2, NAN, NAN, NAN)
        credit = A2TGPO(information_gain="progress", std_correction=0).estimate(table)
        np.testing.assert_allclose(credit.step_advantage[[0, 4]], [1, -1], rtol=1e-4)

    def test_without_sensitivity_no_range_moves(self) -> None:
        credit = A2TGPO(information_gain="progress", clip_sensitivity=0.0).estimate(scored(SEARCHES, *range(8)))
        assert credit.clip_scale is not None
        assert (credit.clip_scale == 1).all()


def unit_company(first: float) -> list[float]:
    """Nine numbers, the first of them given, whose mean is 0 and whose sample deviation is 1."""
    mean = -first / 8
    d = (1 - first**2 / 8 - mean**2) ** 0.5
    return [first, *[mean + d, mean - d] * 4]


# Two episodes of one step with one belief: 8 and 2 by the environment, .5 and .1 by their beliefs.
BELIEFS = scored(table_of((0, valid("b", [8])), (0, valid("b", [2]))), 0.5, 0.1)


class TestReBel:
    def test_the_step_level_by_hand(self) -> None:
        credit = ReBel(consistency_reward="progress").estimate(BELIEFS)
        np.testing.assert_allclose(credit.step_advantage, [3.2, -3.2])
        np.testing.assert_allclose(credit.advantage - credit.episode_advantage, [1.6, -1.6])

    def test_the_episode_level_knows_the_environment_alone(self) -> None:
        credit = ReBel(consistency_reward="progress").estimate(BELIEFS)
        np.testing.assert_allclose(credit.episode_advantage, [3, -3])

    def test_both_parts_are_discounted_by_hand(self) -> None:
        # b: .5·8 against 2, so ±1; beliefs .2 + .5·.4 against .1, so ±.15.
        table = scored(table_of((0, valid("bc", [0, 8])), (0, valid("b", [2]))), 0.2, 0.4, 0.1)
        credit = ReBel(discount=0.5, consistency_reward="progress").estimate(table)
        np.testing.assert_allclose(credit.step_advantage, [1.15, 0, -1.15])

    def test_a_step_without_a_belief_got_nothing_for_it(self) -> None:
        table = replace(BELIEFS, scores={"progress": np.array([0.4, NAN])})
        np.testing.assert_allclose(ReBel(consistency_reward="progress").estimate(table).step_advantage, [3.2, -3.2])


NAMED: list[CreditEstimator] = [
    VPR(process_reward="progress"),
    A2TGPO(information_gain="progress"),
    ReBel(consistency_reward="progress"),
]
named = pytest.mark.parametrize("estimator", NAMED, ids=lambda each: type(each).__name__)


@named
def test_with_a_named_score_every_rule_is_kept(estimator: CreditEstimator) -> None:
    check_estimator(estimator, scores=["progress"])


@named
def test_a_score_that_the_table_has_not_is_refused(estimator: CreditEstimator) -> None:
    with pytest.raises(ValueError, match=r"must name a score that the steps have \(.*; here: other\), got 'progress'"):
        estimator.estimate(scored(SEARCHES, *range(8), name="other"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (VPR, {"outcome_scale": -1.0}),
        (VPR, {"min_rows": 0}),
        (A2TGPO, {"turn_weight": -0.1}),
        (A2TGPO, {"discount": 1.5}),
        (A2TGPO, {"clip_sensitivity": 1.0}),
        (ReBel, {"discount": -0.5}),
    ],
)
def test_numbers_out_of_range_are_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        kind(**options)
