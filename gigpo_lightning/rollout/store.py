"""Trajectories on disk: Parquet files that any tool opens, one row a step."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.trajectory import Step, StopReason, Trajectory, TrajectoryGroup

_TEMPERATURE = b"gigpo.temperature"


def write_trajectories(
    path: Path,
    groups: Sequence[TrajectoryGroup],
    credit: Credit | None = None,
    *,
    temperature: float = 1.0,
    prompt_text: Callable[[Sequence[int]], str] | None = None,
) -> None:
    """Write groups of episodes, one row a step; the file appears whole or not at all.

    Args:
        path: The file; its folder is made.
        groups: The episodes.
        credit: Adds the advantage's parts; its rows are those of ``StepTable.from_groups(groups)``.
        temperature: That replies were drawn at.
        prompt_text: Adds the prompts as text; makes it of their token ids.
    """
    rows: list[dict[str, object]] = []
    trajectory_id = 0
    for group_id, group in enumerate(groups):
        for trajectory in group.trajectories:
            for index, step in enumerate(trajectory.steps):
                rows.append(
                    {
                        "episode_group_id": group_id,
                        "trajectory_id": trajectory_id,
                        "step_index": index,
                        "task_id": trajectory.task_id,
                        "kind": trajectory.kind,
                        "episode_index": trajectory.episode_index,
                        "observation": _text(step.observation),
                        "anchor_key": _text(str(step.anchor_key)),
                        "prompt_ids": list(step.prompt_ids),
                        "completion_ids": list(step.completion_ids),
                        "logprobs": list(step.logprobs),
                        "response": _text(step.response),
                        "action": _text(step.action),
                        "valid_action": step.valid_action,
                        "reward": step.reward,
                        "policy_version": step.policy_version,
                        "success": trajectory.success,
                        "stop_reason": str(trajectory.stop_reason),
                        "prompt_truncated": step.prompt_truncated,
                        "final_observation": _text(trajectory.final_observation)
                        if step is trajectory.steps[-1]
                        else None,
                    }
                )
            trajectory_id += 1
    table = pa.Table.from_pylist(rows)
    figures = [list(t.metrics.items()) for g in groups for t in g.trajectories for _ in t.steps]
    table = table.append_column("metrics", pa.array(figures, pa.map_(pa.string(), pa.float64())))
    if credit is not None:
        for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
            table = table.append_column(name, pa.array(getattr(credit, name)))
    if prompt_text is not None:
        prompts = [_text(prompt_text(step.prompt_ids)) for g in groups for t in g.trajectories for step in t.steps]
        table = table.append_column("prompt", pa.array(prompts))
    table = table.replace_schema_metadata({_TEMPERATURE: repr(temperature).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def _text(text: str) -> str:
    """The text without what UTF-8 cannot say: half a surrogate pair must not cost an epoch's record."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_trajectories(path: Path) -> tuple[list[TrajectoryGroup], float]:
    """Read what ``write_trajectories`` wrote.

    Anchor keys come back as text: which steps share one is the same, unless two keys of one task differ and read alike.

    Args:
        path: The file.

    Returns:
        The groups, and the temperature that their replies were drawn at.

    Raises:
        ValueError: If the file is not there, is no Parquet file, or has not the columns of a rollout.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} must be a Parquet file of trajectories, but cannot be read: {error}") from error
    rows = table.to_pylist()
    try:
        groups = [
            TrajectoryGroup(
                task_id=of_group[0][0]["task_id"], trajectories=tuple(_trajectory(steps) for steps in of_group)
            )
            for of_group in (
                [list(steps) for _, steps in groupby(group, key=lambda row: row["trajectory_id"])]
                for _, group in groupby(rows, key=lambda row: row["episode_group_id"])
            )
        ]
    except KeyError as error:
        raise ValueError(f"{path} must hold trajectories, but has no column {error.args[0]!r}") from error
    return groups, float((table.schema.metadata or {}).get(_TEMPERATURE, b"1.0"))


def _trajectory(rows: Sequence[dict[str, Any]]) -> Trajectory:
    """The episode of some rows."""
    return Trajectory(
        task_id=rows[0]["task_id"],
        kind=rows[0]["kind"],
        episode_index=rows[0]["episode_index"],
        steps=tuple(
            Step(
                observation=row["observation"],
                anchor_key=row["anchor_key"],
                prompt_ids=tuple(row["prompt_ids"]),
                completion_ids=tuple(row["completion_ids"]),
                logprobs=tuple(row["logprobs"]),
                response=row["response"],
                action=row["action"],
                valid_action=row["valid_action"],
                reward=row["reward"],
                policy_version=row["policy_version"],
                prompt_truncated=row["prompt_truncated"],
            )
            for row in rows
        ),
        success=rows[0]["success"],
        stop_reason=StopReason(rows[0]["stop_reason"]),
        final_observation=rows[-1]["final_observation"],
        metrics=dict(rows[0]["metrics"]),
    )
