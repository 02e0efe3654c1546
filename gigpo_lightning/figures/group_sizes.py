"""How many steps had how many others to be compared with."""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

BUCKETS = {"1": (1, 1), "2-5": (2, 5), "6-10": (6, 10), "11-50": (11, 50), "over_50": (51, None)}
"""Smallest and largest size of each bucket, both included.

Differs from the paper's figure, whose buckets share their ends: here every size is in one.
"""


def anchor_group_sizes(step_group_id: Int64[ndarray, " S"]) -> Int64[ndarray, " G"]:
    """Steps in each anchor group, ``(G,)``; numbers that no step has are no group."""
    return np.unique(step_group_id, return_counts=True)[1].astype(np.int64)


def group_size_shares(step_group_id: Int64[ndarray, " S"]) -> dict[str, float]:
    """Share of the steps whose anchor group's size is in each bucket, by TensorBoard name; they sum to 1.

    Of steps, not of groups: a group of fifty tells fifty steps what they were worth.

    Raises:
        ValueError: If there is no step.

    Example:
        >>> group_size_shares(np.array([0, 1, 1, 1]))["anchors/group_size_share/2-5"]
        0.75
    """
    if not step_group_id.size:
        raise ValueError("step_group_id must have at least one step, got 0")
    sizes = anchor_group_sizes(step_group_id)
    shares = {}
    for name, (least, most) in BUCKETS.items():
        inside = (sizes >= least) & (sizes <= (most or sizes.max()))
        shares[f"anchors/group_size_share/{name}"] = float(sizes[inside].sum() / step_group_id.size)
    return shares
