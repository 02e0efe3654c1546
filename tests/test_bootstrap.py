"""How sure a gain is, on pairs whose interval is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.bootstrap import paired_bootstrap, two_way_bootstrap

values = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def test_equal_games_gain_exactly_nothing():
    assert paired_bootstrap([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]) == (0.0, 0.0, 0.0)


def test_a_gain_on_every_game_is_certain():
    assert paired_bootstrap([0.0] * 5, [1.0] * 5) == (1.0, 1.0, 1.0)


def test_pairing_sees_what_two_lone_means_would_not():
    # Hard and easy games; every one gains a little.
    before = [0.0, 0.9] * 50
    gain, low, high = paired_bootstrap(before, [value + 0.05 for value in before])
    assert (gain, low, high) == pytest.approx((0.05, 0.05, 0.05))


def test_the_interval_is_that_of_the_normal_approximation_when_there_are_many_games():
    rng = np.random.default_rng(0)
    before, after = ((rng.random(400) < rate).astype(float) for rate in (0.3, 0.5))
    gain, low, high = paired_bootstrap(before.tolist(), after.tolist())
    error = np.std(after - before) / np.sqrt(400)
    assert (low, high) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error), abs=0.01)


@given(values)
def test_the_interval_holds_the_gain_and_turns_with_the_sign(pairs):
    before, after = map(list, zip(*pairs, strict=True))
    gain, low, high = paired_bootstrap(before, after, num_resamples=500)
    assert low - 1e-12 <= gain <= high + 1e-12 or len(pairs) < 10
    assert low <= high
    back, _, _ = paired_bootstrap(after, before, num_resamples=500)
    assert back == pytest.approx(-gain)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 0.0])])
def test_other_games_after_than_before_are_refused(before, after):
    with pytest.raises(ValueError, match="must have the same games"):
        paired_bootstrap(before, after)


def test_with_one_seed_only_the_games_make_the_interval():
    games = (np.arange(400) % 3 == 0).astype(np.float64)
    mean, low, high = two_way_bootstrap(games[None])
    error = games.std() / 20
    assert (mean, low, high) == pytest.approx((games.mean(), mean - 1.96 * error, mean + 1.96 * error), abs=0.01)


def test_where_all_games_of_a_seed_agree_only_the_seeds_make_the_interval():
    by_seed = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    alone = paired_bootstrap([0.0] * 5, by_seed.tolist())
    both = two_way_bootstrap(np.repeat(by_seed[:, None], 300, axis=1))
    assert both == pytest.approx(alone, abs=0.01)


def test_seeds_and_games_both_widen_the_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 1)) + rng.normal(size=(1, 50))
    _, low, high = two_way_bootstrap(values)
    error = np.hypot(values.mean(axis=1).std() / np.sqrt(6), values.mean(axis=0).std() / np.sqrt(50))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match=r"values must have at least one seed and one game, got shape \(0, 3\)"):
        two_way_bootstrap(np.zeros((0, 3)))
