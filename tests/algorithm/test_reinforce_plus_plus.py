import numpy as np
import pytest
from hypothesis import given

from gigpo_lightning.algorithm import ReinforcePlusPlus
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, valid

TWO_TASKS = table_of((0, valid("ab", [0, 4])), (1, valid("a", [1])))


def test_returns_are_whitened_over_the_whole_batch_by_hand() -> None:
    # Returns 4 4 1: mean 3, deviations 1 1 -2, sample standard deviation sqrt(3).
    credit = ReinforcePlusPlus().estimate(TWO_TASKS)
    np.testing.assert_allclose(credit.advantage, np.array([1, 1, -2]) / (np.sqrt(3) + 1e-6), rtol=1e-12)


def test_a_discount_tells_early_steps_from_late_ones() -> None:
    credit = ReinforcePlusPlus(discount=0.5).estimate(TWO_TASKS)  # returns 2 4 1
    assert credit.advantage[1] > credit.advantage[0] > credit.advantage[2]


def test_with_a_baseline_each_group_s_mean_is_taken_first() -> None:
    table = table_of((0, valid("a", [4])), (0, valid("a", [2])), (1, valid("a", [101])), (1, valid("a", [100])))
    credit = ReinforcePlusPlus(group_baseline=True).estimate(table)  # 1 -1 0.5 -0.5: sample variance 2.5 / 3
    np.testing.assert_allclose(credit.advantage, np.array([1, -1, 0.5, -0.5]) / np.sqrt(2.5 / 3), rtol=1e-5)


@pytest.mark.parametrize("group_baseline", [False, True])
@given(table=step_tables())
def test_the_batch_has_mean_zero_and_deviation_one_or_says_nothing(table: StepTable, group_baseline: bool) -> None:
    advantage = ReinforcePlusPlus(group_baseline=group_baseline).estimate(table).advantage
    if group_baseline:  # a group's advantages sum to 0 over its trajectories; over its steps they need not
        assert not advantage.any() or advantage.std(ddof=1) == pytest.approx(1.0, abs=1e-4)
    else:
        assert advantage.mean() == pytest.approx(0.0, abs=1e-9)
        assert not advantage.any() or advantage.std(ddof=1) == pytest.approx(1.0, abs=1e-4)
