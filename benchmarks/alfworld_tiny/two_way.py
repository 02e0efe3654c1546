"""How sure a mean over seeds and games is."""

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
    rng = np.random.default_rng(seed)
    num_seeds, num_games = values.shape
    # How often each is drawn is all that counts: two small tables of counts instead of every resample's own values.
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_resamples)
    games = rng.multinomial(num_games, np.full(num_games, 1 / num_games), num_resamples)
    means = np.einsum("rs,sg,rg->r", seeds, values, games, optimize=True) / values.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
