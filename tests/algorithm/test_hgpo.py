from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import HGPO, GiGPO, discounted_returns
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, valid

# Four one-reward episodes of one task. All end in c; the first two came from b, the others from d.
MEETING = table_of(
    (0, valid("bc", [0, 6])), (0, valid("bc", [0, 2])), (0, valid("dc", [0, 4])), (0, valid("dc", [0, 0]))
)
IN_C = np.array([1, 3, 5, 7])
PRESET = Path(__file__).resolve().parent.parent.parent / "configs" / "credit" / "hgpo_reference.yaml"


def test_two_histories_by_hand() -> None:
    # k = 1: 6 2 4 0 against their mean 3, weight 2; k = 2: 6 2 against 4, and 4 0 against 2, weight 3.
    credit = HGPO(history_length=1).estimate(MEETING)
    expected = (2 * np.array([3, -1, 1, -3]) + 3 * np.array([2, -2, 2, -2])) / 5
    np.testing.assert_allclose(credit.advantage[IN_C], expected, rtol=1e-14)


def test_the_standard_deviation_is_the_population_s() -> None:
    credit = HGPO(history_length=0, scale_by_std=True).estimate(MEETING)  # variance (9 + 1 + 1 + 9) / 4
    np.testing.assert_allclose(credit.advantage[IN_C], np.array([3, -1, 1, -3]) / np.sqrt(5), rtol=1e-6)


def test_zeros_count_or_are_dropped_as_in_its_code() -> None:
    table = table_of((0, valid("bc", [0, 6])), (0, valid("bc", [0, 6])), (0, valid("dc", [0, 0])))
    counted, dropped = (
        HGPO(history_length=1, count_zeros=count).estimate(table).advantage[1] for count in (True, False)
    )
    assert (counted, dropped) == pytest.approx((2 * 2 / 5, 2.0))


def test_the_episode_group_is_k_0_with_the_weight_1() -> None:
    credit = HGPO(history_length=0, episode_group=True).estimate(MEETING)  # episodes 6 2 4 0 as well
    np.testing.assert_allclose(credit.advantage[IN_C], (np.array([3, -1, 1, -3]) * (1 + 2)) / 3, rtol=1e-14)
    np.testing.assert_allclose(credit.episode_advantage[IN_C], np.array([3, -1, 1, -3]) / 3, rtol=1e-14)


def test_a_lone_episode_has_no_episode_group() -> None:
    table = table_of((0, valid("aa", [0, 10])))
    ours, plain = (HGPO(history_length=0, episode_group=group).estimate(table).advantage for group in (True, False))
    np.testing.assert_array_equal(ours, plain)


def test_no_exponent_is_too_large() -> None:
    assert np.isfinite(HGPO(history_length=2, length_weight_exponent=1e4).estimate(MEETING).advantage).all()


def oracle(
    table: StepTable, k_max: int, alpha: float, scale_by_std: bool, count_zeros: bool, late_penalty: bool = False
) -> np.ndarray:
    """One step at a time, every other step asked whether its last k states are the same."""
    rows = range(len(table))
    penalty = 0.1 * ~table.valid_action
    rewards = table.reward - (0.0 if late_penalty else penalty)
    returns = discounted_returns(rewards, table.trajectory_id, table.step_index, discount=0.95)
    returns = returns - (penalty if late_penalty else 0.0)

    def history(i: int) -> list[Any]:
        own = [j for j in rows if table.trajectory_id[j] == table.trajectory_id[i]]
        return [
            table.anchor_key[j]
            for j in sorted(own, key=lambda j: table.step_index[j])
            if table.step_index[j] <= table.step_index[i]
        ]

    result = []
    for i in rows:
        items = []
        for k in range(1, k_max + 1):
            key = history(i)[-k:]
            same = [
                j for j in rows if table.episode_group_id[j] == table.episode_group_id[i] and history(j)[-k:] == key
            ]
            same = [j for j in same if len(history(j)) >= k]
            if len(key) == k and len(same) > 1:
                group = [returns[j] for j in same]
                value = 0.0 if min(group) == max(group) else returns[i] - fmean(group)
                value = value / (pstdev(group) + 1e-6) if scale_by_std else value
                items.append(((k + 1) ** alpha, value))
        items = [(w, value) for w, value in items if count_zeros or value]
        result.append(sum(w * value for w, value in items) / sum(w for w, _ in items) if items else 0.0)
    return np.array(result)


@pytest.mark.parametrize("scale_by_std", [False, True])
@pytest.mark.parametrize("count_zeros", [False, True])
@given(table=step_tables(), length=st.integers(0, 4), alpha=st.sampled_from([0.0, 1.0, 2.5]))
def test_the_vector_code_equals_the_obvious_loops(
    table: StepTable, length: int, alpha: float, scale_by_std: bool, count_zeros: bool
) -> None:
    credit = HGPO(
        history_length=length, length_weight_exponent=alpha, scale_by_std=scale_by_std, count_zeros=count_zeros
    ).estimate(table)
    expected = oracle(table, length + 1, alpha, scale_by_std, count_zeros)
    np.testing.assert_allclose(credit.advantage, expected, atol=1e-8)


@given(step_tables())
def test_the_reference_preset_drops_zeros_and_takes_the_penalty_off_after_discounting(table: StepTable) -> None:
    options = yaml.safe_load(PRESET.read_text())["model"]["init_args"]["credit"]["init_args"]
    del options["grouping"]
    expected = oracle(table, 3, 1.0, True, False, late_penalty=True)
    np.testing.assert_allclose(HGPO(**options).estimate(table).advantage, expected, atol=1e-8)


@given(step_tables())
def test_without_history_it_is_gigpo_s_step_level(table: StepTable) -> None:
    np.testing.assert_array_equal(
        HGPO(history_length=0).estimate(table).advantage, GiGPO().estimate(table).step_advantage
    )


@given(step_tables())
def test_a_large_exponent_leaves_the_longest_shared_history(table: StepTable) -> None:
    steep = HGPO(history_length=1, length_weight_exponent=200.0).estimate(table).advantage
    flat = HGPO(history_length=1, length_weight_exponent=0.0).estimate(table).advantage
    short = HGPO(history_length=0).estimate(table).advantage
    company = np.abs(2 * flat - short - steep) < 1e-9  # the plain mean of both, where there are both
    alone = np.abs(flat - short) < 1e-9
    assert (company | alone).all()


def test_a_negative_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
        HGPO(history_length=-1)
