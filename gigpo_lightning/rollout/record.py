"""What a rollout leaves behind for those that watch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.trajectory import StepTable, Trajectory, TrajectoryGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One epoch's episodes and their credit.

    Attributes:
        epoch: The epoch that it was played for.
        policy_version: Version of the weights that played it.
        groups: The episodes that are trained on.
        discarded: Groups that were played and are not trained on.
        rounds: Times that it played, to replace discarded groups.
        table: One row a step.
        credit: The advantage of every row.
        progress: Counts and times of the collector.
        rollout_seconds: Time from the first request to the last episode's end.
        credit_seconds: Time of the table and its credit.
        temperature: That replies were drawn at.
    """

    epoch: int
    policy_version: int
    groups: tuple[TrajectoryGroup, ...]
    table: StepTable
    credit: Credit
    progress: RolloutProgress
    rollout_seconds: float
    credit_seconds: float
    temperature: float = 1.0
    discarded: tuple[TrajectoryGroup, ...] = ()
    rounds: int = 1

    def trajectories(self) -> Iterator[Trajectory]:
        """Every episode that is trained on, in the table's order."""
        for group in self.groups:
            yield from group.trajectories

    def metrics(self) -> dict[str, float]:
        """Figures per episode, never averaged over steps: long episodes do not weigh more.

        Discarded groups count as well: without them a success rate would be that of the tasks that are sometimes won.
        """
        episodes = [episode for group in (*self.groups, *self.discarded) for episode in group.trajectories]
        invalid = [np.mean([not step.valid_action for step in episode.steps]) for episode in episodes]
        staleness = [[self.policy_version - step.policy_version for step in episode.steps] for episode in episodes]
        return {
            "rollout/success_rate": float(np.mean([episode.success for episode in episodes])),
            "rollout/return": float(np.mean([episode.episode_return for episode in episodes])),
            "rollout/episode_length": float(np.mean([len(episode.steps) for episode in episodes])),
            "rollout/invalid_action_rate": float(np.mean(invalid)),
            "rollout/truncated_prompts": float(sum(s.prompt_truncated for e in episodes for s in e.steps)),
            "rollout/staleness_mean": float(np.mean([np.mean(of_steps) for of_steps in staleness])),
            "rollout/staleness_max": float(max(map(max, staleness))),
            "rollout/carried_episodes": float(self.progress.carried),
            "rollout/dropped_episodes": float(self.progress.dropped),
            "rollout/retried_episodes": float(self.progress.retried),
            "rollout/discarded_groups": float(len(self.discarded)),
            "rollout/rounds": float(self.rounds),
            "rollout/tokens_per_second": self.progress.tokens / self.rollout_seconds,
            "rollout/episodes_per_second": len(episodes) / self.rollout_seconds,
            "time/rollout": self.rollout_seconds,
            "time/rollout_engine": self.progress.engine_seconds,
            "time/rollout_environment": self.progress.environment_seconds,
            "time/credit": self.credit_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutEpisodes:
    """One evaluation of one split.

    Attributes:
        split: The split's name.
        policy_version: Version of the weights that were evaluated.
        temperature: Temperature that replies were drawn at.
        groups: The episodes: each task once a repeat.
        seconds: How long it took.
    """

    split: str
    policy_version: int
    temperature: float
    groups: tuple[TrajectoryGroup, ...]
    seconds: float

    def trajectories(self) -> Iterator[Trajectory]:
        """Every episode, task by task."""
        for group in self.groups:
            yield from group.trajectories
