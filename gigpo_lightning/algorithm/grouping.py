"""Anchor-state groups: which steps are compared with each other (Eq. 6 of arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from gigpo_lightning.trajectory import StepTable


@runtime_checkable
class Grouping(Protocol):
    """Puts steps that were taken in the same state into one group."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def group(self, table: StepTable) -> Any:
        """Number the groups from 0 without gaps, int64 ``(S,)``; never one number for rows of two episode groups."""


class ExactGrouping:
    """Steps share a group if they share the episode group and the anchor key (Eq. 6).

    Repeated visits inside one trajectory are members of their own, as in the paper. The key is never the anchor alone:
    two tasks that happen to look alike are not compared.
    """

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Number the groups by their first visit, trajectory by trajectory, whatever the order of the rows."""
        order = np.lexsort((table.step_index, table.trajectory_id))
        numbers: dict[tuple[int, object], int] = {}
        pairs = zip(table.episode_group_id[order].tolist(), table.anchor_key[order], strict=True)
        ids = np.empty(len(table), dtype=np.int64)
        ids[order] = np.fromiter((numbers.setdefault(pair, len(numbers)) for pair in pairs), np.int64, len(table))
        return ids


def checked_groups(grouping: Grouping, table: StepTable) -> Int64[ndarray, " S"]:
    """Ask a grouping for its groups, and hold it to what the statistics rely on.

    Args:
        grouping: Built in or a user's own.
        table: Rows to be grouped; at least one.

    Returns:
        The grouping's ids, ``(S,)``.

    Raises:
        ValueError: If the ids are not one integer per row, dense from 0, or a group holds rows of two episode groups.
    """
    name = type(grouping).__name__
    ids = np.asarray(grouping.group(table))
    if ids.shape != (len(table),):
        raise ValueError(f"grouping must give one id per row, but {name} gave shape {ids.shape} for {len(table)} rows")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"grouping must give integers, but {name} gave {ids.dtype}")
    if ids.min() < 0 or not np.bincount(ids).all():
        raise ValueError(f"grouping must number its groups from 0 without gaps, but {name} gave {np.unique(ids)}")
    owner = np.empty(ids.max() + 1, dtype=np.int64)
    owner[ids] = table.episode_group_id
    mixed = np.flatnonzero(owner[ids] != table.episode_group_id)
    if mixed.size:
        row = mixed[0]
        raise ValueError(
            f"grouping must keep episode groups apart, but {name} put rows of episode groups "
            f"{table.episode_group_id[row]} and {owner[ids[row]]} into step group {ids[row]}"
        )
    return ids.astype(np.int64, copy=False)
