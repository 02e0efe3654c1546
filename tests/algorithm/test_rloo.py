import numpy as np
from hypothesis import given

from gigpo_lightning.algorithm import GRPO, RLOO, DrGRPO
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, valid


def test_each_return_against_the_mean_of_the_others_by_hand() -> None:
    table = table_of((0, valid("ab", [0, 9])), (0, valid("a", [3])), (0, valid("c", [0])))
    credit = RLOO().estimate(table)  # 9 - (3 + 0)/2, 3 - (9 + 0)/2, 0 - (9 + 3)/2
    np.testing.assert_allclose(credit.advantage, [7.5, 7.5, -1.5, -6.0], rtol=1e-15)


def test_a_penalty_is_part_of_the_return() -> None:
    table = table_of((0, [("a", 1.0, True)]), (0, [("a", 1.0, False)]))
    np.testing.assert_array_equal(RLOO(invalid_action_penalty=0.5).estimate(table).advantage, [0.5, -0.5])


@given(step_tables())
def test_it_is_grpo_times_n_over_n_minus_one(table: StepTable) -> None:
    sizes = {
        int(group): np.unique(table.trajectory_id[table.episode_group_id == group]).size
        for group in table.episode_group_id
    }
    factor = np.array([sizes[int(group)] / max(sizes[int(group)] - 1, 1) for group in table.episode_group_id])
    np.testing.assert_allclose(RLOO().estimate(table).advantage, factor * GRPO().estimate(table).advantage, atol=1e-12)


@given(step_tables())
def test_dr_grpo_is_grpo_without_standard_deviation(table: StepTable) -> None:
    np.testing.assert_array_equal(DrGRPO().estimate(table).advantage, GRPO().estimate(table).advantage)
