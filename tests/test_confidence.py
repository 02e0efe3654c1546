"""How sure a gain is, on pairs whose interval is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.confidence import paired_bootstrap

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
