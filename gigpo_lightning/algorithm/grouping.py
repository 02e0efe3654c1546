"""Anchor-state groups: which steps are compared with each other (Eq. 6 of arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from rapidfuzz.distance import LCSseq

from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@runtime_checkable
class Grouping(Protocol):
    """Puts steps that were taken in the same state into one group."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def group(self, table: StepTable) -> Any:
        """Number the groups from 0 without gaps, int64 ``(S,)``; never one number for rows of two episode groups."""


class _Founder(NamedTuple):
    """The first of a cluster; its matcher has indexed the text once for all comparisons."""

    cluster: int
    text: str
    matcher: SequenceMatcher[str]


class ExactGrouping:
    """Steps share a group if they share the episode group and the anchor key (Eq. 6).

    Repeated visits inside one trajectory are members of their own, as in the paper. The key is never the anchor alone:
    two tasks that happen to look alike are not compared.

    Args:
        exclude_empty: Leave steps whose key says nothing alone: white space only, empty, or None. A search that found
            nothing looks like any other that found nothing.
    """

    def __init__(self, exclude_empty: bool = False) -> None:
        self.exclude_empty = exclude_empty

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Number the groups by their first visit, trajectory by trajectory, whatever the order of the rows."""
        order = np.lexsort((table.step_index, table.trajectory_id))
        numbers: dict[object, int] = {}
        ids = np.empty(len(table), dtype=np.int64)
        pairs = zip(table.episode_group_id[order].tolist(), table.anchor_key[order], strict=True)
        keys = _lone_if_empty(pairs) if self.exclude_empty else pairs
        ids[order] = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(table))
        return ids


class SimilarityGrouping:
    """Steps share a group if their observations are alike enough: the reference code's rule, greedy.

    Inside an episode group each observation joins the first cluster whose founder it resembles by at least the
    threshold, measured by ``difflib.SequenceMatcher(None, observation, founder).ratio()``, or else founds one. Differs
    from the reference code in the order only: trajectory by trajectory, step by step, whatever the order of the rows.

    The ratio is 2·M/T, with M matched characters that form a common subsequence; so the longest common subsequence
    gives an upper bound, which rapidfuzz computes hundreds of times faster. difflib is asked only where that bound
    reaches the threshold, and only once for two equal observations: the groups are difflib's own.

    Args:
        threshold: Smallest ratio that joins a cluster, above 0 and at most 1; the paper's search agents use .9.
        exclude_empty: Leave steps whose key says nothing alone: white space only, empty, or None.

    Raises:
        ValueError: If the threshold is out of its range.
    """

    def __init__(self, threshold: float = 0.95, exclude_empty: bool = False) -> None:
        check_range("threshold", threshold, 1e-9, 1.0)
        self.threshold = threshold
        self.exclude_empty = exclude_empty

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Number the clusters by their founders, trajectory by trajectory, whatever the order of the rows.

        Raises:
            ValueError: If an anchor key is not a text.
        """
        order = np.lexsort((table.step_index, table.trajectory_id))
        founders: dict[int, list[_Founder]] = {}
        known: dict[tuple[int, str], int] = {}
        ids = np.empty(len(table), dtype=np.int64)
        num_clusters = 0
        for row, task, key in zip(
            order.tolist(), table.episode_group_id[order].tolist(), table.anchor_key[order], strict=True
        ):
            empty = self.exclude_empty and _is_empty(key)
            if not empty and not isinstance(key, str):
                raise ValueError(
                    f"column anchor_key must be text to be grouped by similarity, got {key!r} in row {row}; use "
                    "ExactGrouping for other states"
                )
            cluster = num_clusters if empty else known.get((task, key))
            if cluster is None:
                cluster = self._first_alike(key, founders.setdefault(task, []), num_clusters)
                known[task, key] = cluster
            ids[row] = cluster
            num_clusters = max(num_clusters, cluster + 1)
        return ids

    def _first_alike(self, text: str, founders: list[_Founder], new: int) -> int:
        """The first cluster whose founder the text resembles; a new one, which it founds, if there is none."""
        for founder in founders:
            if self._may_be_alike(text, founder.text):
                founder.matcher.set_seq1(text)
                if founder.matcher.ratio() >= self.threshold:
                    return founder.cluster
        founders.append(_Founder(new, text, SequenceMatcher(None, "", text)))
        return new

    def _may_be_alike(self, text: str, founder: str) -> bool:
        """Whether the upper bound of their ratio reaches the threshold."""
        total = len(text) + len(founder)
        needed = max(0, int(self.threshold * total / 2) - 1)  # below it rapidfuzz may stop counting, and says 0
        matched = LCSseq.similarity(text, founder, score_cutoff=needed)
        return not total or 2.0 * matched / total >= self.threshold


def _is_empty(key: object) -> bool:
    """Whether a key says nothing."""
    if isinstance(key, str):
        return not key.strip()
    return key is None or key in (b"", ())


def _lone_if_empty(pairs: Iterator[tuple[int, object]]) -> Iterator[object]:
    """Keys of their own for empty anchors."""
    for number, (task, key) in enumerate(pairs):
        yield (task, number, "empty") if _is_empty(key) else (task, key)


def checked_groups(grouping: Grouping, table: StepTable) -> Int64[ndarray, " S"]:
    """Ask a grouping for its groups, and hold it to what the statistics rely on.

    Args:
        grouping: Built in or a user's own.
        table: Rows to be grouped; at least one.

    Returns:
        The grouping's ids, ``(S,)``.

    Raises:
        ValueError: If the table has no row, the ids are not one integer per row, dense from 0, or a group holds rows of
            two episode groups.
    """
    if not len(table):
        raise ValueError("table must have at least one row, got 0")
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
