"""How sure a difference between two evaluations of the same games is."""

from collections.abc import Sequence

import numpy as np


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean gain over games and its percentile bootstrap interval, resampling games as pairs.

    The two have the same games in the same order, one value each; ``level`` is the interval's coverage.

    Returns:
        The mean of ``after - before``, and the interval's lower and upper end.

    Raises:
        ValueError: If there is no game, or the two have different lengths.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"before and after must have the same games, at least one, got {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(difference), size=(num_resamples, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(difference.mean()), float(low), float(high)
