from typing import Any

import numpy as np
import pytest
from hypothesis import given

from gigpo_lightning.algorithm import GRPO, GiGPO
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, valid


def test_every_step_gets_its_trajectory_s_advantage() -> None:
    credit = GRPO().estimate(table_of((0, valid("ab", [0, 4])), (0, valid("abc", [0, 0, 1]))))
    np.testing.assert_array_equal(credit.advantage, [1.5, 1.5, -1.5, -1.5, -1.5])


@pytest.mark.parametrize("scale_by_std", [False, True])
@pytest.mark.parametrize("placement", [("trajectory", "reward"), ("step", "reward"), ("step", "step")])
@given(table=step_tables())
def test_gigpo_without_its_step_level_is_grpo(table: StepTable, scale_by_std: bool, placement: tuple[str, str]) -> None:
    options: dict[str, Any] = {"episode_statistics": placement[0], "penalty_placement": placement[1]}
    grpo = GRPO(scale_by_std=scale_by_std, **options).estimate(table)
    gigpo = GiGPO(step_advantage_weight=0.0, scale_by_std=scale_by_std, **options).estimate(table)
    np.testing.assert_array_equal(grpo.advantage, gigpo.advantage)


@given(step_tables())
def test_its_defaults_are_gigpo_s(table: StepTable) -> None:
    np.testing.assert_array_equal(GRPO().estimate(table).advantage, GiGPO().estimate(table).episode_advantage)
