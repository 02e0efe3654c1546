"""Anchor-state groups: which steps are compared with each other (Eq. 6 of arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from rapidfuzz.distance import LCSseq

from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable, visit_order


@runtime_checkable
class Grouping(Protocol):
    """Puts steps that were taken in the same state into one group."""

    # Any: the command line wants an implementation's annotations equal to these, and jaxtyping's equal no other
    def group(self, table: StepTable) -> Any:
        """Number the groups from 0 without gaps, int64 ``(S,)``; never one number for rows of two episode groups."""


class _Founder:
    """The first of a cluster."""

    def __init__(self, cluster: int, text: str) -> None:
        self.cluster = cluster
        self.text = text

    @cached_property
    def matcher(self) -> "SequenceMatcher[str]":
        """Compares texts with this one, which it has indexed once for all of them."""
        return SequenceMatcher(None, "", self.text)


class ExactGrouping:
    """Steps share a group if they share the episode group and the anchor key (Eq. 6).

    Repeated visits inside one trajectory are members of their own, as in the paper. The key is never the anchor alone:
    two tasks that happen to look alike are not compared.

    Args:
        exclude_empty: Compare no step whose key is None, empty or white space: turns without a query look alike.
    """

    def __init__(self, exclude_empty: bool = False) -> None:
        self.exclude_empty = exclude_empty

    def group(self, table: StepTable) -> Int64[ndarray, " S"]:
        """Number the groups by their first visit, trajectory by trajectory, whatever the order of the rows."""
        keys = table.anchor_key.tolist()
        if self.exclude_empty:
            keys = [_Alone() if _is_empty(key) else key for key in keys]
        # Four times faster than a loop over (task, key) pairs.
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        states = np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
        tasks = np.unique(table.episode_group_id, return_inverse=True)[1]
        order = visit_order(table.trajectory_id, table.step_index)
        ids = np.empty(len(table), dtype=np.int64)
        ids[order] = by_first_visit((tasks * len(numbers) + states)[order])
        return ids


class SimilarityGrouping:
    """Steps share a group if their observations are alike enough: the reference code's rule, greedy.

    Inside an episode group each observation joins the first cluster whose founder is similar enough,
    ``difflib.SequenceMatcher(None, observation, founder).ratio()`` >= threshold, or else founds one. Differs from the
    reference code in the order only: trajectory by trajectory, step by step, whatever the order of the rows.

    The ratio is 2·M/T, with M matched characters that form a common subsequence. So ratio <= 2·LCS/T, with the longest
    common subsequence, which rapidfuzz computes hundreds of times faster. difflib runs only where this bound reaches
    the threshold, stops as soon as the answer is certain, and runs once for equal observations: the groups are its own.

    Args:
        threshold: Smallest ratio that joins a cluster, above 0 and at most 1; the paper's search agents use .9.
        exclude_empty: Compare no step whose key is None, empty or white space.

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
        order = visit_order(table.trajectory_id, table.step_index)
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
        """The first cluster whose founder is similar enough; a new one if there is none."""
        for founder in founders:
            if self._may_be_alike(text, founder.text) and self._is_alike(text, founder):
                return founder.cluster
        founders.append(_Founder(new, text))
        return new

    def _may_be_alike(self, text: str, founder: str) -> bool:
        """Whether the upper bound of their ratio reaches the threshold."""
        total = len(text) + len(founder)
        needed = max(0, int(self.threshold * total / 2) - 1)  # below it rapidfuzz may stop counting, and says 0
        spare, founder_spare = len(text) - needed, len(founder) - needed  # what may stay unmatched of each
        if min(spare, founder_spare) < 0:
            return False
        # LCS(text, founder) >= needed implies LCS(text[:head], founder[:head + founder_spare]) >= head - spare, which
        # most unlike texts fail already.
        head = 5 * spare
        if head < len(text) // 2:
            matched = LCSseq.similarity(text[:head], founder[: head + founder_spare], score_cutoff=head - spare)
            if matched < head - spare:
                return False
        return self._reaches(LCSseq.similarity(text, founder, score_cutoff=needed), total)

    def _is_alike(self, text: str, founder: _Founder) -> bool:
        """Whether difflib's ratio reaches the threshold.

        Like ``SequenceMatcher.get_matching_blocks``, take the longest match, then look left and right of it; stop when
        matched + Σ LCS(regions left) is too small.
        """
        total = len(text) + len(founder.text)
        founder.matcher.set_seq1(text)
        whole = (0, len(text), 0, len(founder.text))
        matched, pending, possible = 0, [whole], [min(len(text), len(founder.text))]
        while pending and not self._reaches(matched, total):
            if not self._reaches(matched + sum(possible), total):
                return False
            low, high, founder_low, founder_high = pending.pop()
            possible.pop()
            i, j, size = founder.matcher.find_longest_match(low, high, founder_low, founder_high)
            if not size:
                continue
            matched += size
            for region in ((low, i, founder_low, j), (i + size, high, j + size, founder_high)):
                if region[0] < region[1] and region[2] < region[3]:
                    pending.append(region)
                    possible.append(LCSseq.similarity(text[region[0] : region[1]], founder.text[region[2] : region[3]]))
        return self._reaches(matched, total)

    def _reaches(self, matched: int, total: int) -> bool:
        """Whether so many matched characters make the threshold; the ratio is computed as difflib does."""
        return not total or 2.0 * matched / total >= self.threshold


def _is_empty(key: object) -> bool:
    """Whether a key says nothing."""
    if isinstance(key, str):
        return not key.strip()
    return key is None or key in (b"", ())


class _Alone:
    """A key that is equal to no other."""


def by_first_visit(pairs: Int64[ndarray, " S"]) -> Int64[ndarray, " S"]:
    """Number codes >= 0 in the order of their first appearance, from 0, ``(S,)``."""
    if not pairs.size:
        return pairs
    if pairs.max() > 8 * len(pairs):  # few shared states: a sort costs less than a table of all codes
        pairs = np.unique(pairs, return_inverse=True)[1]
    first = np.full(int(pairs.max()) + 1, -1)
    first[pairs[::-1]] = np.arange(len(pairs))[::-1]  # written backwards: the first visit is written last
    is_first = first[pairs] == np.arange(len(pairs))
    number: Int64[ndarray, " S"] = np.cumsum(is_first)[first[pairs]] - 1
    return number


def checked_groups(grouping: Grouping | None, table: StepTable) -> Int64[ndarray, " S"]:
    """Ask a grouping for its groups, and check them.

    Args:
        grouping: Built in or a user's own; None for ``ExactGrouping()``.
        table: Rows to be grouped; at least one.

    Returns:
        The grouping's ids, ``(S,)``.

    Raises:
        ValueError: If the ids are not one integer per row, dense from 0, or a group holds rows of
            two episode groups.
    """
    grouping = ExactGrouping() if grouping is None else grouping
    name = type(grouping).__name__
    ids = np.asarray(grouping.group(table))
    if ids.shape != (len(table),):
        raise ValueError(f"grouping must give one id per row, but {name} gave shape {ids.shape} for {len(table)} rows")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"grouping must give integers, but {name} gave {ids.dtype}")
    if ids.min() < 0 or ids.max() >= len(ids) or not np.bincount(ids).all():
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
