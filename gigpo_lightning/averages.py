"""Means of means, as some published evaluations print them."""

from collections import defaultdict
from collections.abc import Sequence

from gigpo_lightning.errors import check_count


def batch_means(kinds: Sequence[str], values: Sequence[float], batch_size: int) -> dict[str, list[float]]:
    """Each kind's mean in every batch that has any of it, kinds and batches in the order in which they come.

    The mean of these is what the reference code reports for a kind. It is not the mean of the kind's values unless all
    batches have as many of it: the 125 questions of Bamboogle fall into batches of 124 and of 1, and so the one counts
    as much as the 124.

    Values are in the order in which they were evaluated; the last batch may have fewer.

    Example:
        >>> batch_means(["nq", "nq", "nq", "popqa"], [1.0, 1.0, 0.0, 1.0], 2)
        {'nq': [1.0, 0.0], 'popqa': [1.0]}
    """
    check_count("batch_size", batch_size)
    means: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(values), batch_size):
        batch = slice(start, start + batch_size)
        of_kind: dict[str, list[float]] = defaultdict(list)
        for kind, value in zip(kinds[batch], values[batch], strict=True):
            of_kind[kind].append(value)
        for kind, each in of_kind.items():
            means[kind].append(sum(each) / len(each))
    return dict(means)
