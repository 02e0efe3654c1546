"""How sure a mean over seeds and games is, where the interval is known."""

import numpy as np
import pytest

from gigpo_lightning.confidence import paired_bootstrap
from tests.benchmarks.runs import script


def test_with_one_seed_only_the_games_make_the_interval():
    games = (np.arange(400) % 3 == 0).astype(np.float64)
    mean, low, high = script("two_way").two_way_bootstrap(games[None])
    error = games.std() / 20
    assert (mean, low, high) == pytest.approx((games.mean(), mean - 1.96 * error, mean + 1.96 * error), abs=0.01)


def test_where_all_games_of_a_seed_agree_only_the_seeds_make_the_interval():
    by_seed = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    alone = paired_bootstrap([0.0] * 5, by_seed.tolist())
    both = script("two_way").two_way_bootstrap(np.repeat(by_seed[:, None], 300, axis=1))
    assert both == pytest.approx(alone, abs=0.01)


def test_seeds_and_games_both_widen_the_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 1)) + rng.normal(size=(1, 50))
    _, low, high = script("two_way").two_way_bootstrap(values)
    error = np.hypot(values.mean(axis=1).std() / np.sqrt(6), values.mean(axis=0).std() / np.sqrt(50))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match=r"values must have at least one seed and one game, got shape \(0, 3\)"):
        script("two_way").two_way_bootstrap(np.zeros((0, 3)))
