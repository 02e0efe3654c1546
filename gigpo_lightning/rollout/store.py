"""Trajectories on disk: Parquet files that any tool opens, one row a step."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.disk import whole_file
from gigpo_lightning.rollout.seal import check_seal, seal
from gigpo_lightning.rollout.stored_rows import OF_END, OF_STEP, OF_TRAJECTORY, SCHEMA, PolicyLimits, StoredRows
from gigpo_lightning.text import well_formed
from gigpo_lightning.trajectory import Step, StopReason, Trajectory, TrajectoryGroup

_TEMPERATURE = b"gigpo.temperature"


def write_trajectories(
    path: Path,
    groups: Sequence[TrajectoryGroup],
    credit: Credit | None = None,
    *,
    temperature: float = 1.0,
    prompt_text: Callable[[Sequence[int]], str] | None = None,
    epoch: int | None = None,
) -> None:
    """Write groups of episodes, one row a step; the file appears whole or not at all.

    Args:
        path: The file; its folder is made.
        groups: The episodes.
        credit: Adds the advantage's parts; its rows are those of ``StepTable.from_groups(groups)``.
        temperature: Sampling temperature of the replies.
        prompt_text: Adds the prompts as text; decodes token ids.
        epoch: The epoch that learnt from them; default: none did.

    Raises:
        FullDiskError: If there is no room; the former file is still there.
    """
    table = pa.Table.from_pylist(list(_rows(groups, temperature)), schema=SCHEMA)
    if credit is not None:
        for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
            table = table.append_column(name, pa.array(getattr(credit, name)))
    if prompt_text is not None:
        prompts = [
            well_formed(prompt_text(step.prompt_ids)) for g in groups for t in g.trajectories for step in t.steps
        ]
        table = table.append_column("prompt", pa.array(prompts))
    table = table.append_column("epoch", pa.array([epoch] * len(table), pa.int64()))
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        seal(partial)


def _rows(groups: Sequence[TrajectoryGroup], temperature: float) -> Iterator[dict[str, object]]:
    """A row a step, group by group, trajectory by trajectory, step by step."""
    trajectory_id = 0
    for group_id, group in enumerate(groups):
        for trajectory in group.trajectories:
            last = len(trajectory.steps) - 1
            for index, step in enumerate(trajectory.steps):
                yield {
                    "episode_group_id": group_id,
                    "trajectory_id": trajectory_id,
                    "step_index": index,
                    **{name: _stored(trajectory, name) for name in OF_TRAJECTORY},
                    **{name: _stored(step, name) for name in OF_STEP},
                    **{name: _stored(trajectory, name) if index == last else None for name in OF_END},
                    "num_steps": len(trajectory.steps),
                    "num_trajectories": len(group.trajectories),
                    "num_groups": len(groups),
                    "temperature": temperature,
                }
            trajectory_id += 1


def _stored(noun: Step | Trajectory, name: str) -> object:
    """A field as its column holds it; a lone surrogate, which UTF-8 cannot write, must not cost an epoch's record."""
    value, kind = getattr(noun, name), SCHEMA.field(name).type
    if pa.types.is_map(kind):
        return list(value.items())
    unknown = name == "final_anchor" and value is None
    return well_formed(str(value)) if kind == pa.string() and not unknown else value


def read_trajectories(path: Path) -> tuple[list[TrajectoryGroup], float]:
    """Read what ``write_trajectories`` wrote; rows may come in any order.

    Anchor keys come back as text, so different keys of a task that read alike become one. A file must hold a whole
    rollout; to keep a part of one, read it and write that part anew.

    Returns:
        The groups, and the sampling temperature of their replies.

    Raises:
        ValueError: If the file is missing, no Parquet file, or damaged, has an impossible value, or does not hold each
            step of a whole rollout once; the message names the file and, where it can, the row and the column.
    """
    rows, temperature = _checked(path)
    groups = [
        [list(steps) for _, steps in groupby(group, key=lambda row: row["trajectory_id"])]
        for _, group in groupby(rows.in_order().to_pylist(), key=lambda row: row["episode_group_id"])
    ]
    return [
        TrajectoryGroup(task_id=group[0][0]["task_id"], trajectories=tuple(map(_trajectory, group))) for group in groups
    ], temperature


def check_trajectories(path: Path, limits: PolicyLimits) -> None:
    """Refuse a file that ``read_trajectories`` would refuse, or whose tokens do not fit the policy.

    Raises:
        ValueError: As ``read_trajectories``; and if a token is not in the vocabulary, or a prompt with its reply is
            longer than the context.
    """
    _checked(path)[0].check_limits(limits)


def _checked(path: Path) -> tuple[StoredRows, float]:
    """The file's rows and their temperature."""
    try:
        check_seal(path)
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} must be a Parquet file of trajectories, but cannot be read: {error}") from error
    rows = StoredRows(table, path)
    temperature = rows.temperature()
    return rows, _noted_temperature(table, path) if temperature is None else temperature


def _noted_temperature(table: pa.Table, path: Path) -> float:
    """The temperature in the metadata of files of earlier versions."""
    noted = (table.schema.metadata or {}).get(_TEMPERATURE)
    if noted is None:
        raise ValueError(f"{path} must say the temperature of its replies, but has no column 'temperature'")
    try:
        temperature = float(noted)
    except ValueError:
        temperature = math.nan
    if not math.isfinite(temperature) or temperature < 0:
        raise ValueError(f"{path}: {_TEMPERATURE.decode()} of its metadata must be a finite number >= 0, got {noted!r}")
    return temperature


def _trajectory(rows: Sequence[dict[str, Any]]) -> Trajectory:
    """The episode of some rows."""
    fields = _fields(rows[-1], OF_TRAJECTORY)
    fields["stop_reason"] = StopReason(fields["stop_reason"])
    return Trajectory(**fields, steps=tuple(Step(**_fields(row, OF_STEP)) for row in rows))


def _fields(row: dict[str, Any], kinds: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """The fields of a step or a trajectory that a row holds."""
    return {name: _read(row[name], kind) for name, kind in kinds.items() if name in row}


def _read(value: Any, kind: pa.DataType) -> Any:
    """A field, of what its column holds."""
    if pa.types.is_map(kind):
        return dict(value)
    return tuple(value) if isinstance(value, list) else value
