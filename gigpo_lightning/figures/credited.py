"""Episodes side by side with the credit of their steps, and the group that shows most of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.trajectory import Trajectory, TrajectoryGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CreditedEpisode:
    """One episode and what an estimator said of its T steps.

    Attributes:
        trajectory: The episode.
        advantage: A of Eq. 8, ``(T,)``.
        episode_advantage: A_E of Eq. 3, ``(T,)``.
        step_advantage: A_S of Eq. 7, ``(T,)``.
        step_group_id: Anchor group of each step, ``(T,)``.
        group_size: Steps in that anchor group, this one included, ``(T,)``.
    """

    trajectory: Trajectory
    advantage: Float64[ndarray, " T"]
    episode_advantage: Float64[ndarray, " T"]
    step_advantage: Float64[ndarray, " T"]
    step_group_id: Int64[ndarray, " T"]
    group_size: Int64[ndarray, " T"]


def credited_groups(groups: Sequence[TrajectoryGroup], credit: Credit) -> list[list[CreditedEpisode]]:
    """Give every episode the rows that are its own, group by group; rows are in the order of ``StepTable.from_groups``.

    Raises:
        ValueError: If the credit has more or fewer rows than the episodes have steps, or an advantage is not finite.
    """
    num_steps = sum(len(episode.steps) for group in groups for episode in group.trajectories)
    if num_steps != len(credit.advantage):
        raise ValueError(f"credit must have a row for each of the {num_steps} steps, got {len(credit.advantage)} rows")
    for name in ("advantage", "episode_advantage", "step_advantage"):
        bad = np.flatnonzero(~np.isfinite(getattr(credit, name)))
        if bad.size:
            raise ValueError(f"credit.{name} must be finite, got {getattr(credit, name)[bad[0]]} in row {bad[0]}")
    names = [each.name for each in fields(credit) if each.name not in ("metrics", "clip_scale")]
    columns = {name: getattr(credit, name) for name in names}
    columns["group_size"] = np.bincount(credit.step_group_id)[credit.step_group_id].astype(np.int64)
    credited: list[list[CreditedEpisode]] = []
    start = 0
    for group in groups:
        credited.append([])
        for trajectory in group.trajectories:
            rows = slice(start, start + len(trajectory.steps))
            own = {name: column[rows] for name, column in columns.items()}
            credited[-1].append(CreditedEpisode(trajectory=trajectory, **own))
            start = rows.stop
    return credited


def most_varied_group(groups: Sequence[Sequence[CreditedEpisode]]) -> int:
    """The number of the group that has most to show; the first of equals.

    A group that won some and lost some comes before one whose returns differ in another way, and that before one
    without any difference between its episodes. Of like groups it is the one whose episodes share most states.

    Raises:
        ValueError: If there is no group.
    """
    if not groups:
        raise ValueError("groups must have at least one group, got 0")

    def merit(episodes: Sequence[CreditedEpisode]) -> tuple[bool, bool, int]:
        mixed = len({each.trajectory.success for each in episodes}) == 2
        unequal = any(each.episode_advantage.any() for each in episodes)
        met = Counter(state for each in episodes for state in set(each.step_group_id.tolist()))
        return mixed, unequal, sum(times > 1 for times in met.values())

    return max(range(len(groups)), key=lambda number: merit(groups[number]))  # the first of equals
