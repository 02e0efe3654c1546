import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import group_relative
from gigpo_lightning.algorithm.advantages import anchor_metrics

values_and_groups = st.lists(
    st.tuples(st.floats(-100, 100, allow_subnormal=False), st.integers(0, 4)), min_size=1, max_size=40
).map(lambda pairs: (np.array([v for v, _ in pairs]), np.array([g for _, g in pairs])))


def test_three_returns_by_hand() -> None:
    advantages = group_relative(np.array([1.0, 2.0, 6.0]), np.zeros(3, int))
    np.testing.assert_array_equal(advantages, [-2.0, -1.0, 3.0])  # their mean is 3


def test_the_standard_deviation_is_the_unbiased_one() -> None:
    advantages = group_relative(np.array([0.0, 2.0, 4.0]), np.zeros(3, int), scale_by_std=True, eps=0.0)
    np.testing.assert_array_equal(advantages, [-1.0, 0.0, 1.0])  # √((4 + 0 + 4) / 2) = 2


def test_eps_is_added_to_the_standard_deviation_not_to_the_variance() -> None:
    advantages = group_relative(np.array([-1.0, 0.0, 1.0]), np.zeros(3, int), scale_by_std=True, eps=1.0)
    np.testing.assert_array_equal(advantages, [-0.5, 0.0, 0.5])  # 1 / (1 + 1)


@pytest.mark.parametrize("scale_by_std", [False, True])
def test_a_lone_value_has_nothing_to_be_compared_with(scale_by_std: bool) -> None:
    advantages = group_relative(np.array([1.0, 10.0, 3.0]), np.array([0, 1, 0]), scale_by_std=scale_by_std)
    assert advantages[1] == 0.0


@pytest.mark.parametrize("scale_by_std", [False, True])
def test_equal_returns_give_exactly_zero_for_every_group_size_and_scale(scale_by_std: bool) -> None:
    scales = np.arange(1, 1001) * 0.95 ** (np.arange(1000) % 50)
    sizes = np.repeat(np.arange(2, 65), 1000)
    group_ids = np.repeat(np.arange(len(sizes)), sizes)
    advantages = group_relative(np.tile(scales, 63)[group_ids], group_ids, scale_by_std=scale_by_std)
    assert not advantages.any()


def test_the_float32_mean_of_the_reference_code_would_fail_that() -> None:
    returns = np.full(7, 10 * 0.95**2, dtype=np.float32)
    assert (returns - returns.sum() / np.float32(7)).any()  # or the test above guards against nothing


@given(values_and_groups, st.booleans())
def test_advantages_sum_to_zero_in_every_group(pair: tuple[np.ndarray, np.ndarray], scale_by_std: bool) -> None:
    values, groups = pair
    advantages = group_relative(values, groups, scale_by_std=scale_by_std)
    np.testing.assert_allclose(np.bincount(groups, advantages), 0.0, atol=1e-6)


@given(values_and_groups, st.sampled_from([-8.0, 0.5, 64.0]))
def test_a_constant_bonus_changes_nothing(pair: tuple[np.ndarray, np.ndarray], bonus: float) -> None:
    values, groups = pair
    np.testing.assert_allclose(group_relative(values + bonus, groups), group_relative(values, groups), atol=1e-9)


@given(values_and_groups)
def test_scaling_keeps_signs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    values, groups = pair
    scaled = group_relative(values, groups, scale_by_std=True)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(group_relative(values, groups)))


@given(values_and_groups, st.booleans())
def test_reversing_the_rows_reverses_the_advantages(pair: tuple[np.ndarray, np.ndarray], scale_by_std: bool) -> None:
    values, groups = pair
    forward = group_relative(values, groups, scale_by_std=scale_by_std)
    backward = group_relative(values[::-1], groups[::-1], scale_by_std=scale_by_std)
    np.testing.assert_allclose(backward[::-1], forward, rtol=1e-9, atol=1e-9)


def test_the_values_are_not_changed() -> None:
    values = np.array([1.0, 2.0])
    group_relative(values, np.zeros(2, int), scale_by_std=True)
    np.testing.assert_array_equal(values, [1.0, 2.0])


def test_no_values_have_no_advantages() -> None:
    assert group_relative(np.zeros(0), np.zeros(0, int), scale_by_std=True).shape == (0,)


def test_a_negative_group_is_refused() -> None:
    with pytest.raises(ValueError, match="group_ids must be >= 0, got -1"):
        group_relative(np.zeros(2), np.array([0, -1]))


GROUPS = np.array([0, 0, 0, 1])
EPISODE, STEP = np.array([2.0, -2.0, 2.0, -2.0]), np.array([1.0, -1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anchors/group_size_mean", 2.0),  # groups of 3 and 1
        ("anchors/singleton_fraction", 0.25),  # one step of four
        ("anchors/nonzero_step_advantage_fraction", 0.5),
        ("anchors/step_to_episode_ratio", 0.25),  # 0.5 over 2
    ],
)
def test_anchor_metrics_by_hand(name: str, value: float) -> None:
    assert anchor_metrics(EPISODE, STEP, GROUPS)[name] == value


def test_the_ratio_of_levels_is_zero_where_the_episode_level_says_nothing() -> None:
    assert anchor_metrics(np.zeros(4), STEP, GROUPS)["anchors/step_to_episode_ratio"] == 0.0
