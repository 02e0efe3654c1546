"""What is learnt from: groups of episodes, their table, its credit, and the minibatches made of both.

groups ─▶ StepTable (with scores of scorers) ─▶ CreditEstimator ─▶ Credit ─▶ minibatches
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from gigpo_lightning.algorithm import Credit, CreditEstimator
from gigpo_lightning.algorithm.token_credit import TokenCredit
from gigpo_lightning.batch import Minibatch, MinibatchBy, make_minibatches, prepare
from gigpo_lightning.engines.base import Scorer
from gigpo_lightning.errors import check_count, check_seed
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.ranks import gather, place
from gigpo_lightning.rollout.episode import noise_seed
from gigpo_lightning.rollout.group_sampler import PlayedGroups
from gigpo_lightning.rollout.replies import ReplyCounts
from gigpo_lightning.trajectory import Step, StepTable, Trajectory, TrajectoryGroup


@runtime_checkable
class StepScorer(Protocol):
    """Gives every step numbers after play and before credit; chosen by ``class_path``."""

    def score(self, groups: Sequence[TrajectoryGroup], policy: Scorer | None) -> Mapping[str, Sequence[float]]:
        """Columns by name, in the row order of ``StepTable.from_groups``; not a number where a step has none.

        Args:
            groups: A rank's episodes.
            policy: Log-probabilities under the weights that played; None of stored episodes.
        """


@runtime_checkable
class WatchesExperience(Protocol):
    """Is shown each epoch's experience once; callbacks that log it are."""

    def on_experience(self, experience: "Experience") -> None:
        """Called on every rank, before the epoch's first update."""


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class Batching:
    """How an epoch's steps are cut into minibatches.

    Attributes:
        minibatch_size: Steps of one optimizer step, of all ranks; None takes all steps of the epoch.
        micro_batch_tokens: Longest micro-batch, rows times longest row, in tokens.
        seed: Of the shuffle.
        token_credit: Spreads the advantage of a step over its tokens; default: each token has its step's.
        minibatch_by: What is shuffled and stays whole: ``steps``, or ``episodes``, whose beginnings are then computed
            once; minibatches of episodes have about ``minibatch_size`` steps.
    """

    minibatch_size: int | None = None
    micro_batch_tokens: int = 16384
    seed: int = 0
    token_credit: TokenCredit | None = None
    minibatch_by: MinibatchBy = "steps"

    def __post_init__(self) -> None:
        if self.minibatch_size is not None:
            check_count("minibatch_size", self.minibatch_size)
        check_count("micro_batch_tokens", self.micro_batch_tokens)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One epoch's episodes on this rank, and their credit.

    Attributes:
        epoch: The epoch that learns from them.
        policy_version: Version of the weights that played them.
        played: The episodes.
        table: One row a step.
        credit: The advantage of every row.
        credit_seconds: Time of the table and its credit.
        temperature: That replies were drawn at.
    """

    epoch: int
    policy_version: int
    played: PlayedGroups
    table: StepTable
    credit: Credit
    credit_seconds: float
    temperature: float = 1.0

    @classmethod
    def of(
        cls,
        played: PlayedGroups,
        credit: CreditEstimator,
        *,
        epoch: int,
        policy_version: int | None = None,
        temperature: float = 1.0,
        scorers: Sequence[StepScorer] = (),
        policy: Scorer | None = None,
    ) -> "Experience":
        """Assign the credit of an epoch's episodes, fresh or stored.

        Args:
            played: The episodes.
            credit: Assigns the advantage of every step.
            epoch: The epoch that learns from them.
            policy_version: Version of the weights that played them; default: the newest that wrote a step.
            temperature: That replies were drawn at.
            scorers: Give every step numbers before credit is assigned, which are logged as ``scores/<name>``.
            policy: What scorers may ask for log-probabilities: the engine that played.
        """
        started = time.perf_counter()
        table = scored_table(played.groups, scorers, policy)
        assigned = credit.estimate(table)
        return cls(
            epoch=epoch,
            policy_version=int(table.policy_version.max()) if policy_version is None else policy_version,
            played=played,
            table=table,
            credit=assigned,
            credit_seconds=time.perf_counter() - started,
            temperature=temperature,
        )

    def minibatches(self, policy: PolicyView, batching: Batching, progress: float = math.nan) -> list[Minibatch]:
        """Cut the steps of all ranks into minibatches; all ranks have to ask together, before an update.

        Each holds what the policy says of its replies before an update changes it: ``gigpo_lightning.batch.prepare``.
        ``progress`` is the share of the run that is done, for a token credit that has a schedule.
        """
        minibatches = make_minibatches(
            self.played.groups,
            self.credit,
            pad_token_id=policy.tokenizer.pad_token_id,
            temperature=self.temperature,
            minibatch_size=batching.minibatch_size,
            micro_batch_tokens=batching.micro_batch_tokens,
            seed=noise_seed(batching.seed, self.epoch, "minibatches"),
            minibatch_by=batching.minibatch_by,
            rules=policy.row_rules,
            rank=place()[0],
        )
        return prepare(minibatches, policy, batching.token_credit, progress)

    def trajectories(self) -> Iterator[Trajectory]:
        """Every episode that is trained on, in the table's order."""
        for group in self.played.groups:
            yield from group.trajectories

    def metrics(self, replies: ReplyCounts | None = None) -> dict[str, float]:
        """Figures per episode, never averaged over steps: long episodes do not weigh more. Every rank must ask.

        They are of all ranks' episodes, each counted once. Discarded groups count as well: without them a success rate
        would be that of the tasks that are sometimes won. ``replies`` are this experience's, where they are counted.
        """
        by_rank = gather((self._of_episodes(), self._counts(), self._slowest()))
        episodes = [figures for of_rank, _, _ in by_rank for figures in of_rank]
        means = {f"rollout/{name}": value for name, value in _means(episodes).items()}
        _, counted, measured = by_rank[0]
        totals = {name: sum(counts[name] for _, counts, _ in by_rank) for name in counted}
        slowest = {name: max(values[name] for _, _, values in by_rank) for name in measured}
        tokens, seconds = totals.pop("tokens"), slowest["time/rollout"]
        speeds = {"rollout/tokens_per_second": tokens / seconds, "rollout/episodes_per_second": len(episodes) / seconds}
        scores = {name: (float(np.nansum(s)), int((~np.isnan(s)).sum())) for name, s in self.table.scores.items()}
        return means | totals | slowest | speeds | (replies or self.replies()).metrics() | score_means(gather(scores))

    def replies(self) -> ReplyCounts:
        """Counts of all ranks' replies, those of discarded groups among them. Every rank must ask."""
        return ReplyCounts.total(gather(ReplyCounts.of(list(self.played.every()))))

    def _of_episodes(self) -> list[dict[str, float]]:
        """Figures of each episode, the environment's own among them."""
        return [
            {
                **episode.metrics,
                "success_rate": float(episode.success),
                **({f"{episode.kind}/success_rate": float(episode.success)} if episode.kind else {}),
                "return": episode.episode_return,
                "episode_length": float(len(episode.steps)),
                "invalid_action_rate": float(np.mean([not step.valid_action for step in episode.steps])),
                "staleness_mean": float(np.mean([self.policy_version - s.policy_version for s in episode.steps])),
            }
            for group in self.played.every()
            for episode in group.trajectories
        ]

    def _counts(self) -> dict[str, float]:
        """What adds up over ranks."""
        counts = {
            "tokens": self.played.progress.tokens,
            "rollout/truncated_prompts": sum(step.prompt_truncated for step in self._steps()),
            "rollout/rewritten_prompts": sum(
                episode.rewritten_prompts for group in self.played.every() for episode in group.trajectories
            ),
            "rollout/carried_episodes": self.played.progress.carried,
            "rollout/dropped_episodes": self.played.progress.dropped,
            "rollout/retried_episodes": self.played.progress.retried,
            "rollout/discarded_groups": len(self.played.discarded),
        }
        return {name: float(count) for name, count in counts.items()}

    def _slowest(self) -> dict[str, float]:
        """Figures for which the slowest rank counts."""
        return {
            "rollout/staleness_max": float(max(self.policy_version - step.policy_version for step in self._steps())),
            "rollout/rounds": float(self.played.rounds),
            "time/rollout": self.played.seconds,
            "time/rollout_engine": self.played.progress.engine_seconds,
            "time/rollout_environment": self.played.progress.environment_seconds,
            "time/credit": self.credit_seconds,
        }

    def _steps(self) -> list[Step]:
        return [s for group in self.played.every() for episode in group.trajectories for s in episode.steps]


def scored_table(
    groups: Sequence[TrajectoryGroup], scorers: Sequence[StepScorer] = (), policy: Scorer | None = None
) -> StepTable:
    """The table of some groups, with the scores of their steps."""
    scores: dict[str, Sequence[float]] = {}
    for scorer in scorers:
        scores |= scorer.score(groups, policy)
    return StepTable.from_groups(groups, scores)


def score_means(by_rank: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
    """The mean of each score over the steps that have one, as ``scores/<name>``; a rank may have no such step.

    Args:
        by_rank: The sum of each score on a rank, and the number of its steps that have one.
    """
    names = dict.fromkeys(name for of_rank in by_rank for name in of_rank)
    totals = {name: np.sum([of_rank[name] for of_rank in by_rank if name in of_rank], axis=0) for name in names}
    return {f"scores/{name}": float(total / max(1, number)) for name, (total, number) in totals.items()}


def _means(episodes: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, over the episodes that have it."""
    names = dict.fromkeys(name for figures in episodes for name in figures)
    return {name: float(np.mean([figures[name] for figures in episodes if name in figures])) for name in names}
