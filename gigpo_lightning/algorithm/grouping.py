"""Anchor-state groups: which steps are compared with each other (Eq. 6 of arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from typing import Protocol

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from gigpo_lightning.trajectory import StepTable


class Grouping(Protocol):
    """Puts steps that were taken in the same state into one group."""

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Dense group ids from 0, ``(S,)``; never one id for rows of two episode groups."""


class ExactGrouping:
    """Steps share a group if they share the episode group and the anchor key (Eq. 6).

    Repeated visits inside one trajectory are members of their own, as in the paper. The key is never the anchor alone:
    two tasks that happen to look alike are not compared.
    """

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Number the pairs (episode group, anchor key) in the order in which rows show them."""
        ids: dict[tuple[int, object], int] = {}
        pairs = zip(table.episode_group_id.tolist(), table.anchor_key, strict=True)
        return np.fromiter((ids.setdefault(pair, len(ids)) for pair in pairs), dtype=np.int64, count=len(table))
