"""What a rollout leaves behind for those that watch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.ranks import gather
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.trajectory import Step, StepTable, Trajectory, TrajectoryGroup


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
        """Figures per episode, never averaged over steps: long episodes do not weigh more. Every rank must ask.

        They are of all ranks' episodes, each counted once. Discarded groups count as well: without them a success rate
        would be that of the tasks that are sometimes won.
        """
        by_rank = gather((self._of_episodes(), self._counts(), self._most()))
        episodes = [figures for of_rank, _, _ in by_rank for figures in of_rank]
        means = {f"rollout/{name}": value for name, value in _means(episodes).items()}
        _, counted, measured = by_rank[0]
        totals = {name: sum(counts[name] for _, counts, _ in by_rank) for name in counted}
        most = {name: max(values[name] for _, _, values in by_rank) for name in measured}
        tokens, seconds = totals.pop("tokens"), most["time/rollout"]
        speeds = {
            "rollout/tokens_per_second": tokens / seconds,
            "rollout/episodes_per_second": len(episodes) / seconds,
        }
        return means | totals | most | speeds

    def _of_episodes(self) -> list[dict[str, float]]:
        """Figures of each episode, the environment's own among them."""
        return [
            {
                **episode.metrics,
                "success_rate": float(episode.success),
                "return": episode.episode_return,
                "episode_length": float(len(episode.steps)),
                "invalid_action_rate": float(np.mean([not step.valid_action for step in episode.steps])),
                "staleness_mean": float(np.mean([self.policy_version - s.policy_version for s in episode.steps])),
            }
            for group in (*self.groups, *self.discarded)
            for episode in group.trajectories
        ]

    def _counts(self) -> dict[str, float]:
        """What adds up over ranks."""
        counts = {
            "tokens": self.progress.tokens,
            "rollout/truncated_prompts": sum(step.prompt_truncated for step in self._steps()),
            "rollout/carried_episodes": self.progress.carried,
            "rollout/dropped_episodes": self.progress.dropped,
            "rollout/retried_episodes": self.progress.retried,
            "rollout/discarded_groups": len(self.discarded),
        }
        return {name: float(count) for name, count in counts.items()}

    def _most(self) -> dict[str, float]:
        """Of what the largest of any rank counts: ranks wait for each other."""
        return {
            "rollout/staleness_max": float(max(self.policy_version - step.policy_version for step in self._steps())),
            "rollout/rounds": float(self.rounds),
            "time/rollout": self.rollout_seconds,
            "time/rollout_engine": self.progress.engine_seconds,
            "time/rollout_environment": self.progress.environment_seconds,
            "time/credit": self.credit_seconds,
        }

    def _steps(self) -> list[Step]:
        return [s for group in (*self.groups, *self.discarded) for episode in group.trajectories for s in episode.steps]


def _means(episodes: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, over the episodes that have it."""
    names = dict.fromkeys(name for figures in episodes for name in figures)
    return {name: float(np.mean([figures[name] for figures in episodes if name in figures])) for name in names}


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
