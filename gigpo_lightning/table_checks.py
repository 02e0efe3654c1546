"""What a step table's columns must hold: types that lose nothing, ids and steps that name each row once."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_DTYPES: dict[str, type[np.generic]] = {
    "episode_group_id": np.int64,
    "trajectory_id": np.int64,
    "step_index": np.int64,
    "anchor_key": np.object_,
    "reward": np.float64,
    "valid_action": np.bool_,
    "success": np.bool_,
    "policy_version": np.int64,
    "next_anchor_key": np.object_,
}
_KINDS: dict[type[np.generic], str] = {np.int64: "iu", np.float64: "iuf", np.bool_: "b"}
"""NumPy's kinds that convert to a column's type without loss."""


def checked_columns(given: Mapping[str, Iterable[Any]]) -> "dict[str, np.ndarray[Any, np.dtype[Any]]]":
    """Convert a table's columns to their types.

    Raises:
        ValueError: At the first rule that is broken; the message names the column and the row.
    """
    columns = {name: checked_column(name, values) for name, values in given.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    if lengths[shortest] < lengths[longest]:
        raise ValueError(
            f"column {shortest} must be as long as column {longest}, {lengths[longest]} rows, but has no row "
            f"{lengths[shortest]}"
        )
    _check_rows(columns)
    return columns


def checked_scores(scores: Mapping[str, Any], length: int) -> "dict[str, np.ndarray[Any, np.dtype[Any]]]":
    """Convert named scores to float64; a step without one has no number.

    Raises:
        ValueError: If one is not as long as the table, not numeric, or infinite.
    """
    columns = {}
    for name, values in scores.items():
        column = np.asarray(values)
        if column.shape != (length,) or column.dtype.kind not in "iuf":
            raise ValueError(f"scores[{name!r}] must be {length} numbers, one a row, got {column.dtype} {column.shape}")
        if np.isinf(column).any():
            row = int(np.flatnonzero(np.isinf(column))[0])
            raise ValueError(f"scores[{name!r}] must be finite or not a number, got {column[row]} in row {row}")
        columns[name] = column.astype(np.float64)
    return columns


def _check_rows(columns: "dict[str, np.ndarray[Any, np.dtype[Any]]]") -> None:
    bad = np.flatnonzero(~np.isfinite(columns["reward"]))
    if bad.size:
        raise ValueError(f"column reward must be finite, got {columns['reward'][bad[0]]} in row {bad[0]}")
    for name in ("episode_group_id", "trajectory_id", "step_index"):
        bad = np.flatnonzero(columns[name] < 0)
        if bad.size:
            raise ValueError(f"column {name} must be >= 0, got {columns[name][bad[0]]} in row {bad[0]}")
    order = np.lexsort((columns["step_index"], columns["trajectory_id"]))
    trajectory, step = columns["trajectory_id"][order], columns["step_index"][order]
    same = np.flatnonzero((np.diff(trajectory) == 0) & (np.diff(step) == 0))
    if same.size:
        at = same[0] + 1
        raise ValueError(
            f"columns trajectory_id and step_index must name a row once, but trajectory {trajectory[at]} step "
            f"{step[at]} appears again in row {order[at]}"
        )
    for name in ("episode_group_id", "success"):
        column = columns[name][order]
        mixed = np.flatnonzero((np.diff(trajectory) == 0) & (column[1:] != column[:-1]))
        if mixed.size:
            at = mixed[0] + 1
            raise ValueError(
                f"column {name} must be one value per trajectory, but trajectory {trajectory[at]} changes it in row "
                f"{order[at]}"
            )
    if "next_anchor_key" in columns:
        _check_next(columns["next_anchor_key"], columns["anchor_key"], order, trajectory, step)


def _check_next(
    reached: "np.ndarray[Any, np.dtype[Any]]",
    anchor: "np.ndarray[Any, np.dtype[Any]]",
    order: "np.ndarray[Any, np.dtype[Any]]",
    trajectory: "np.ndarray[Any, np.dtype[Any]]",
    step: "np.ndarray[Any, np.dtype[Any]]",
) -> None:
    """A step leads to where the next one of its trajectory begins; ``trajectory`` and ``step`` are in visit order."""
    follows = np.flatnonzero((np.diff(trajectory) == 0) & (np.diff(step) == 1))
    before, after = order[follows], order[follows + 1]
    for at in np.flatnonzero(reached[before] != anchor[after]):
        found, wanted = reached[before[at]], anchor[after[at]]
        if found is not wanted:  # a not-a-number is no anchor like itself
            raise ValueError(
                f"column next_anchor_key must be the anchor_key of the trajectory's next step, {wanted!r} in row "
                f"{after[at]}, but is {found!r} in row {before[at]}"
            )


def checked_column(name: str, values: Iterable[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Convert one column to its type, refusing what would lose information."""
    dtype = _DTYPES[name]
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"column {name} must have a value in every row, got a masked array")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"column {name} must be one-dimensional, got shape {values.shape}")
    try:
        entries: Any = values if isinstance(values, np.ndarray) else list(values)
    except TypeError as error:
        raise ValueError(f"column {name} must have one value a row, got {values!r}") from error
    if dtype is np.object_:
        for row, entry in enumerate(entries):
            try:
                hash(entry)
            except TypeError as error:
                raise ValueError(f"column {name} must be hashable, got {entry!r} in row {row}") from error
        return np.fromiter(entries, dtype=object, count=len(entries))
    try:
        column = np.array(entries.tolist() if isinstance(entries, np.ndarray) and entries.dtype == object else entries)
    except (ValueError, OverflowError):  # entries of several lengths, or too large for any number
        column = np.empty(0)
    fits = len(column) == len(entries) and column.ndim == 1 and column.dtype.kind in _KINDS[dtype]
    if not len(entries) or (fits and not (column.dtype == np.uint64 and (column > np.iinfo(np.int64).max).any())):
        return column.astype(dtype)
    row = next((row for row, entry in enumerate(entries) if not _fits(entry, dtype)), 0)
    raise ValueError(f"column {name} must be {dtype.__name__}, got {entries[row]!r} in row {row}")


def _fits(entry: object, dtype: type[np.generic]) -> bool:
    """Whether an entry converts to a column's type without loss."""
    if dtype is np.bool_:
        return isinstance(entry, bool | np.bool_)
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | float | np.integer | np.floating):
        return False
    if dtype is np.float64:
        return True
    if isinstance(entry, float | np.floating) and not entry.is_integer():
        return False
    return abs(int(entry)) <= np.iinfo(np.int64).max
