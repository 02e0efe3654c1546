"""What a file of trajectories must hold: the columns, their values, and every row of a rollout exactly once.

Shape letters: S = rows of the file, one a step; E = entries of a list column, of all rows together.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gigpo_lightning.environments.answers import LARGEST_REWARD
from gigpo_lightning.trajectory import Step, StopReason, Trajectory

_TYPES: dict[object, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    StopReason: pa.string(),
    Hashable: pa.string(),
    tuple[int, ...]: pa.list_(pa.int64()),
    tuple[float, ...]: pa.list_(pa.float64()),
    Mapping[str, float]: pa.map_(pa.string(), pa.float64()),
}
_COUNTS = ("num_steps", "num_trajectories", "num_groups")
OF_STEP = {name: _TYPES[kind] for name, kind in get_type_hints(Step).items()}
OF_TRAJECTORY = {name: _TYPES[kind] for name, kind in get_type_hints(Trajectory).items() if name != "steps"}
SCHEMA = pa.schema(
    dict.fromkeys(("episode_group_id", "trajectory_id", "step_index"), pa.int64())
    | OF_TRAJECTORY
    | OF_STEP
    | dict.fromkeys(_COUNTS, pa.int64())
    | {"temperature": pa.float64()}
)
"""Columns of a file: a step's place, the fields of ``Trajectory`` and ``Step``, and three counts by which a lost row
shows: ``num_steps`` of a trajectory, ``num_trajectories`` of its group, ``num_groups`` of the file. A trajectory's
``final_observation`` and, if it is known, its ``final_anchor`` stand in its last row alone; the others have null."""
LATER = (*_COUNTS, "temperature", "final_anchor", "scores", "problem", "reply_cut")
"""Columns that files of earlier versions lack."""
_OF_TRAJECTORY = ("episode_group_id", "task_id", "kind", "episode_index", "success", "stop_reason", "num_steps")
_OF_GROUP = ("task_id", "num_trajectories")
OF_END = ("final_observation", "final_anchor")
_OF_FILE = ("num_groups", "temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """Limits of a policy; ``context`` is the longest prompt plus reply, in tokens, or None if there is no limit."""

    vocabulary_size: int
    context: int | None


class StoredRows:
    """The checked rows of a file, in any order; columns that are not in ``SCHEMA`` are ignored.

    Raises:
        ValueError: If a column is missing, of another type, or has a value that cannot be, or the rows are not those of
            a whole rollout; the message names the file, the row of the file, from 0, and the column.
    """

    def __init__(self, table: pa.Table, path: Path) -> None:
        self._path = path
        self._table = self._converted(table)
        if not len(self._table):
            raise ValueError(f"{path} must hold trajectories, but has no row")
        self._check_values()
        self._check_places()
        self._check_counts()

    def in_order(self) -> pa.Table:
        """The rows group by group, trajectory by trajectory, step by step."""
        keys = [self._column(name) for name in ("step_index", "trajectory_id", "episode_group_id")]
        order = np.lexsort(keys)
        return self._table if (np.diff(order) == 1).all() else self._table.take(order)

    def temperature(self) -> float | None:
        """Sampling temperature of the replies; None without that column."""
        return float(self._column("temperature")[0]) if self._has("temperature") else None

    def check_limits(self, limits: PolicyLimits) -> None:
        """Refuse tokens outside the policy's vocabulary, and rows longer than its context.

        Raises:
            ValueError: At the first such row; the message names the file, the row and the column.
        """
        for name in ("prompt_ids", "completion_ids"):
            ids, rows = self._entries(name)
            rule = f"must hold token ids below {limits.vocabulary_size}, the policy's vocabulary"
            self._refuse_entries(name, ids >= limits.vocabulary_size, ids, rows, rule)
        if limits.context is not None:
            lengths = self._lengths("prompt_ids") + self._lengths("completion_ids")
            rule = f"must be at most {limits.context} tokens with its reply, the policy's context"
            self._refuse("prompt_ids", lengths > limits.context, lengths, rule)

    def _converted(self, table: pa.Table) -> pa.Table:
        """The columns of ``SCHEMA``, in its types."""
        columns = {}
        for field in SCHEMA:
            found = table.schema.get_all_field_indices(field.name)
            if not found and field.name in LATER:
                continue
            if len(found) != 1:
                how = "no column" if not found else "more than one column"
                raise ValueError(f"{self._path} must hold trajectories, but has {how} {field.name!r}")
            columns[field.name] = self._converted_column(field, table.column(found[0]))
        return pa.table(columns)

    def _converted_column(self, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if field.name not in OF_END and column.null_count:
            raise self._error(field.name, int(np.flatnonzero(column.is_null())[0]), "must not be null", None)
        problem = f"{self._path}: column {field.name} must be {field.type}, got {column.type}"
        if not _is_alike(column.type, field.type) and not (pa.types.is_null(column.type) and column.null_count):
            raise ValueError(problem)
        try:
            return column.cast(field.type)
        except pa.ArrowException as error:  # numbers beyond 64 bits, bytes beyond UTF-8
            raise ValueError(f"{problem}: {error}") from error

    def _check_values(self) -> None:
        for name in ("episode_group_id", "trajectory_id", "step_index", "episode_index", "policy_version"):
            self._refuse(name, self._column(name) < 0, self._column(name), "must be >= 0")
        reward = self._column("reward")
        self._refuse("reward", ~(np.abs(reward) <= LARGEST_REWARD), reward, "must be in [-1e30, 1e30]")
        for name in filter(self._has, ("metrics", "scores")):
            self._refuse(name, self._has_strange(name), self._column(name), "must map names to finite numbers")
        for name in ("prompt_ids", "completion_ids"):
            ids, rows = self._entries(name)
            self._refuse_entries(name, ids < 0, ids, rows, "must hold token ids >= 0")
        logprobs, rows = self._entries("logprobs")
        wrong = ~np.isfinite(logprobs) | (logprobs > 0)
        self._refuse_entries("logprobs", wrong, logprobs, rows, "must hold finite log-probabilities <= 0")
        lengths, wanted = self._lengths("logprobs"), self._lengths("completion_ids")
        self._refuse("logprobs", lengths != wanted, lengths, "must be as long as completion_ids", wanted)
        lengths = self._lengths("prompt_ids")
        self._refuse("prompt_ids", lengths < 1, lengths, "must hold at least one token")
        reasons, listed = self._column("stop_reason"), ", ".join(StopReason)
        self._refuse("stop_reason", ~np.isin(reasons, list(StopReason)), reasons, f"must be one of {listed}")
        if self._has("temperature"):
            given = self._column("temperature")
            self._refuse("temperature", ~(np.isfinite(given) & (given >= 0)), given, "must be a finite number >= 0")

    def _has_strange(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """Which rows have a figure that is null or not finite, ``(S,)``."""
        strange = np.zeros(len(self._table), dtype=bool)
        figures = self._table[name].combine_chunks()
        rows = np.repeat(np.arange(len(strange)), np.diff(figures.offsets))
        values = figures.items.slice(figures.offsets[0].as_py(), len(rows)).to_numpy(zero_copy_only=False)
        strange[rows[~np.isfinite(values)]] = True
        return strange

    def _check_places(self) -> None:
        """Every step of a trajectory is there once, from the first to the last."""
        trajectory, step = self._column("trajectory_id"), self._column("step_index")
        order = np.lexsort((step, trajectory))  # stable: of two like rows the later one is named
        trajectory, step = trajectory[order], step[order]
        follows = np.r_[False, np.diff(trajectory) == 0]
        again = follows & np.r_[False, np.diff(step) == 0]
        for at in np.flatnonzero(again)[:1]:
            rule = f"must be in trajectory {trajectory[at]} once, but row {order[at - 1]} has it too"
            raise self._error("step_index", int(order[at]), rule, step[at])
        for name in filter(self._has, _OF_TRAJECTORY):
            self._check_same(name, order, trajectory, "trajectory")
        starts = np.maximum.accumulate(np.where(follows, 0, np.arange(len(order))))
        wanted = np.arange(len(order)) - starts
        for at in np.flatnonzero(step != wanted)[:1]:
            rule = f"must count from 0 without a gap, but trajectory {trajectory[at]} has no step {wanted[at]}"
            raise self._error("step_index", int(order[at]), rule, step[at])
        self._check_ends(order, trajectory, ~np.r_[follows[1:], False])

    def _check_ends(self, order: np.ndarray, trajectory: np.ndarray, is_last: np.ndarray) -> None:
        """Only a trajectory's last step says what came after it; its anchor may be unknown."""
        for name in filter(self._has, OF_END):
            said = np.asarray(self._table[name].is_valid())[order]
            wrong = said & ~is_last if name == "final_anchor" else said != is_last
            for at in np.flatnonzero(wrong)[:1]:
                how = "not be null: it is the last step" if is_last[at] else "be null: it is not the last step"
                value = self._column(name)[order[at]]
                raise self._error(name, int(order[at]), f"must {how} of trajectory {trajectory[at]}", value)

    def _check_counts(self) -> None:
        """No trajectory and no group is missing."""
        group, trajectory = self._column("episode_group_id"), self._column("trajectory_id")
        order = np.lexsort((trajectory, group))
        for name in filter(self._has, _OF_GROUP):
            self._check_same(name, order, group[order], "group")
        for name in filter(self._has, _OF_FILE):
            self._check_same(name, np.arange(len(order)), None, "file")
        for name in ("trajectory_id", "episode_group_id"):
            ids, first = np.unique(self._column(name), return_index=True)
            for at in np.flatnonzero(ids != np.arange(len(ids)))[:1]:
                rule = f"must count from 0 without a gap, but no row has {at}"
                raise self._error(name, int(first[at]), rule, ids[at])
        firsts = np.unique(trajectory, return_index=True)[1]
        found = {
            "num_steps": np.bincount(trajectory)[trajectory],
            "num_trajectories": np.bincount(group[firsts])[group],
            "num_groups": np.full(len(group), group.max() + 1),
        }
        of = {"num_steps": "rows of its trajectory", "num_trajectories": "trajectories of its group"}
        for name in filter(self._has, _COUNTS):
            said = self._column(name)
            self._refuse(
                name, said != found[name], said, f"must be the {of.get(name, 'groups')} in the file", found[name]
            )

    def _check_same(self, name: str, order: np.ndarray, owner: np.ndarray | None, what: str) -> None:
        """Rows of one owner, which lie together in this order, must have one value."""
        values = self._column(name)[order]
        same = np.ones(len(order) - 1, dtype=bool) if owner is None else np.diff(owner) == 0
        for at in np.flatnonzero(same & (values[1:] != values[:-1]))[:1]:
            whose = f"the {what}" if owner is None else f"{what} {owner[at]}"
            rule = f"must be one value in all rows of {whose}, but row {order[at]} has {_shown(values[at])}"
            raise self._error(name, int(order[at + 1]), rule, values[at + 1])

    def _has(self, name: str) -> bool:
        return name in self._table.column_names

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """A column, ``(S,)``."""
        values: np.ndarray[Any, np.dtype[Any]] = self._table[name].to_numpy()
        return values

    def _lengths(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """How many entries a list column has in each row, ``(S,)``."""
        lengths: np.ndarray[Any, np.dtype[Any]] = pc.list_value_length(self._table[name]).to_numpy()
        return lengths

    def _entries(self, name: str) -> tuple[np.ndarray[Any, np.dtype[Any]], np.ndarray[Any, np.dtype[Any]]]:
        """The entries of a list column and the row of each, ``(E,)``."""
        entries = pc.list_flatten(self._table[name])
        rows = np.repeat(np.arange(len(self._table)), self._lengths(name))
        if entries.null_count:
            raise self._error(name, int(rows[np.flatnonzero(entries.is_null())[0]]), "must not hold a null", None)
        return entries.to_numpy(), rows

    def _refuse(
        self, name: str, wrong: np.ndarray, values: np.ndarray, rule: str, wanted: np.ndarray | None = None
    ) -> None:
        for row in np.flatnonzero(wrong)[:1]:
            raise self._error(name, int(row), rule if wanted is None else f"{rule}, {wanted[row]}", values[row])

    def _refuse_entries(self, name: str, wrong: np.ndarray, values: np.ndarray, rows: np.ndarray, rule: str) -> None:
        for entry in np.flatnonzero(wrong)[:1]:
            raise self._error(name, int(rows[entry]), rule, values[entry])

    def _error(self, name: str, row: int, rule: str, value: Any) -> ValueError:
        return ValueError(f"{self._path}, row {row}, column {name}: {rule}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value as a message shows it: on one line, not too long, without NumPy's type."""
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _is_alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of one type may be read as the other, as after another tool has rewritten the file."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_list(wanted):
        lists = pa.types.is_list(found) or pa.types.is_large_list(found)
        return bool(lists and (pa.types.is_null(found.value_type) or _is_alike(found.value_type, wanted.value_type)))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))
    for is_kind in (pa.types.is_map, pa.types.is_boolean, pa.types.is_integer):
        if is_kind(wanted):
            return bool(is_kind(found))
    return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
