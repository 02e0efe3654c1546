"""Trajectories on disk: Parquet files that any tool opens, one row a step."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.trajectory import TrajectoryGroup


def write_trajectories(path: Path, groups: Sequence[TrajectoryGroup], credit: Credit | None = None) -> None:
    """Write groups of episodes, one row a step; the file appears whole or not at all.

    Args:
        path: The file; its folder is made.
        groups: The episodes.
        credit: Adds the advantage's parts; its rows are those of ``StepTable.from_groups(groups)``.
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
                        "observation": step.observation,
                        "anchor_key": str(step.anchor_key),
                        "prompt_ids": list(step.prompt_ids),
                        "completion_ids": list(step.completion_ids),
                        "logprobs": list(step.logprobs),
                        "response": step.response,
                        "action": step.action,
                        "valid_action": step.valid_action,
                        "reward": step.reward,
                        "policy_version": step.policy_version,
                        "success": trajectory.success,
                        "stop_reason": str(trajectory.stop_reason),
                    }
                )
            trajectory_id += 1
    table = pa.Table.from_pylist(rows)
    if credit is not None:
        for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
            table = table.append_column(name, pa.array(getattr(credit, name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
