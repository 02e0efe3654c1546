"""How sure a mean over seeds and games is."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def two_way_bootstrap(
    values: NDArray[np.float64], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over seeds and games, and its percentile interval for other seeds and other games.

    Both are drawn anew, independently (the pigeonhole bootstrap, doi:10.1214/07-AOAS122, which is a little too wide).
    An interval over the games alone would be that of these training runs, one over the seeds alone that of these games.
    For the difference of two methods give the differences, seed by seed and game by game.

    Args:
        values: One value of each seed and game, ``(seeds, games)``.
        level: Coverage of the interval.
        num_resamples: Number of resamples.
        seed: Of the resamples.

    Returns:
        The mean, and the interval's lower and upper end.

    Raises:
        ValueError: If there is no seed or no game.
    """
    if not values.size:
        raise ValueError(f"values must have at least one seed and one game, got shape {values.shape}")
    seeds, games = (each.astype(np.float64) for each in _draws(*values.shape, num_resamples, seed))
    means = (seeds * (games @ values.T)).sum(axis=1) / values.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


@lru_cache(maxsize=32)
def _draws(
    num_seeds: int, num_games: int, num_resamples: int, seed: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """How often each seed and each game is drawn, ``(resamples, seeds)`` and ``(resamples, games)``: all that counts.

    A report draws a hundred times for a few shapes, which takes far longer than the means. All of them are kept, and so
    as short numbers.
    """
    rng = np.random.default_rng(seed)
    seeds, games = (
        rng.multinomial(number, np.full(number, 1 / number), num_resamples).astype(np.uint16)
        for number in (num_seeds, num_games)
    )
    return seeds, games
