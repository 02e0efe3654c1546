"""G2PO: hand examples of the specification, and its definition as loops."""

from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.algorithm import G2PO
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.oracle import relative
from tests.algorithm.tables import Row, step_tables, table_of, valid, won

# One task. The first episode goes a, b and wins 10; the second a, c and the third b lose.
FIVE_STEPS = won(table_of((0, valid("ab", [0, 10])), (0, valid("ac", [0, 0])), (0, valid("b", [0]))), 0)
NO_STD = [3.3675, 11.005, -6.1325, 0.755, -8.995]
WITH_STD = [0.94837, 2.16682, -1.62049, 0.18353, -1.67822]


def third_row_invalid() -> StepTable:
    lost: list[Row] = [("a", 0.0, False), ("c", 0.0, True)]
    return won(table_of((0, valid("ab", [0, 10])), (0, lost), (0, valid("b", [0]))), 0)


def test_the_step_level_by_hand() -> None:
    np.testing.assert_allclose(G2PO().estimate(FIVE_STEPS).step_advantage, NO_STD, atol=1e-12)


def test_an_invalid_step_pays_among_the_steps_of_its_state_alone() -> None:
    credit = G2PO().estimate(third_row_invalid())
    np.testing.assert_allclose(credit.step_advantage, [3.4175, 11.005, -6.1825, 0.755, -8.995], atol=1e-12)


@pytest.mark.parametrize("table", [FIVE_STEPS, third_row_invalid()], ids=["valid", "invalid"])
def test_the_step_level_with_std_by_hand(table: StepTable) -> None:
    np.testing.assert_allclose(G2PO(scale_by_std=True).estimate(table).step_advantage, WITH_STD, atol=1e-5)


def test_the_reference_s_episode_level_is_over_step_rows() -> None:
    credit = G2PO(episode_statistics="step").estimate(FIVE_STEPS)  # returns 10 10 0 0 0, mean 4
    assert credit.episode_advantage.tolist() == [6.0, 6.0, -4.0, -4.0, -4.0]


def oracle(table: StepTable, discount: float, success_value: float, penalty: float, scaled: bool) -> list[float]:
    """A_S of every row, one row at a time."""
    rows = range(len(table))

    def trajectory(i: int) -> list[int]:
        own = [j for j in rows if table.trajectory_id[j] == table.trajectory_id[i]]
        return sorted(own, key=lambda j: int(table.step_index[j]))

    def mates(i: int) -> list[int]:
        return [j for j in rows if table.episode_group_id[j] == table.episode_group_id[i]]

    def visits(i: int) -> list[int]:
        return [j for j in mates(i) if table.anchor_key[j] == table.anchor_key[i]]

    def outcome(i: int) -> float:
        own = trajectory(i)
        return float(discount ** (len(own) - own.index(i)) * sum(table.reward[j] for j in own))

    value = [fmean(outcome(j) for j in visits(i)) for i in rows]
    following = []
    for i in rows:
        ahead = trajectory(i)[trajectory(i).index(i) + 1 :]
        following.append(value[ahead[0]] if ahead else success_value * bool(table.success[i]))
    worth = [following[i] - penalty * (not table.valid_action[i]) for i in rows]
    gain = [following[i] - value[i] for i in rows]

    def compared(values: list[float], i: int, group: list[int]) -> float:
        others = [values[j] for j in group]
        return relative(values[i], others, scaled) if max(others) - min(others) > 1e-9 else 0.0

    return [compared(worth, i, visits(i)) + compared(gain, i, mates(i)) for i in rows]


@settings(max_examples=50)
@given(table=step_tables(), scaled=st.booleans())
def test_it_equals_its_definition(table: StepTable, scaled: bool) -> None:
    options: dict[str, Any] = {"value_discount": 0.8, "success_value": 3.0, "invalid_action_penalty": 0.2}
    credit = G2PO(**options, scale_by_std=scaled).estimate(table)
    np.testing.assert_allclose(credit.step_advantage, oracle(table, 0.8, 3.0, 0.2, scaled), atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("value_discount", 1.1), ("success_value", -1.0)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        G2PO(**{name: value})  # type: ignore[arg-type]
