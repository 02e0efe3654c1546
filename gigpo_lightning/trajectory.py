"""The nouns everyone shares: steps, trajectories, their groups, and the table that credit is computed from."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np

from gigpo_lightning.table_checks import checked_column, checked_columns, checked_scores


class StopReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The environment reached a terminal state (Gymnasium's ``terminated``)."""
    TRUNCATED = "truncated"
    """The environment cut the episode short (Gymnasium's ``truncated``)."""
    MAX_STEPS = "max_steps"
    """The collector's step limit was reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One environment turn: what was shown, what the policy wrote, what came of it.

    Attributes:
        observation: What the world said before the action.
        anchor_key: The state the action was chosen in; never contains history.
        prompt_ids: Token ids that the engine was given.
        completion_ids: Token ids that the engine sampled, its stop token included.
        logprobs: The sampler's log-probability of each of ``completion_ids``, in nats.
        response: ``completion_ids`` as text, without the stop token.
        action: What was sent to the environment.
        valid_action: Whether the parser accepted the response.
        problem: Which rule of the prompt the response broke, in a few words; empty when valid.
        reply_cut: Whether the response was as long as it may be, and did not end by itself.
        reward: Reward of this step, in the environment's units, without the invalid-action penalty.
        policy_version: Version of the weights that wrote ``completion_ids``.
        prompt_truncated: Whether the template had to shorten the prompt.
        scores: The environment's own numbers of this step, by name.
    """

    observation: str
    anchor_key: Hashable
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    response: str
    action: str
    valid_action: bool
    reward: float
    policy_version: int
    prompt_truncated: bool = False
    problem: str = ""
    reply_cut: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The record of one episode.

    Attributes:
        task_id: The task that was played.
        kind: The task's kind, for metrics per type.
        episode_index: Number of this episode in its group, from 0.
        steps: The episode's steps, in order.
        success: Whether the environment called the episode a success.
        stop_reason: Why the episode ended.
        final_observation: What the world said after the last action.
        metrics: The environment's own figures of the episode, such as a score.
        final_anchor: The state after the last action, by its key, also where the episode was cut short; None where an
            older record does not say.
    """

    task_id: str
    kind: str
    episode_index: int
    steps: tuple[Step, ...]
    success: bool
    stop_reason: StopReason
    final_observation: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    final_anchor: Hashable = None

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards, R(τ) of Eq. 2, without the invalid-action penalty."""
        return math.fsum(step.reward for step in self.steps)

    @property
    def rewritten_prompts(self) -> int:
        """Prompts that do not begin with the prompt and the reply before them, token by token."""
        return sum(not _grows(before, after) for before, after in pairwise(self.steps))


def _grows(before: Step, after: Step) -> bool:
    shown, written = len(before.prompt_ids), len(before.prompt_ids) + len(before.completion_ids)
    return after.prompt_ids[shown:written] == before.completion_ids and after.prompt_ids[:shown] == before.prompt_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryGroup:
    """All trajectories of one task from one initial state: what episode advantages compare (Eq. 2).

    Attributes:
        task_id: The task that all of them played.
        trajectories: The group's episodes, by ``episode_index``.
    """

    task_id: str
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTable:
    """One row per environment step, in any order: all that an estimator of credit sees.

    Columns may be of any type that converts without loss to the one below; the caller's arrays are not changed.

    Attributes:
        episode_group_id: Rollouts of one task from one initial state share it, int64 ``(S,)``.
        trajectory_id: Unique in the table, int64 ``(S,)``.
        step_index: Position in the trajectory, from 0, int64 ``(S,)``.
        anchor_key: The state the action was chosen in, hashable objects ``(S,)``.
        reward: Per step, in the environment's units, float64 ``(S,)``.
        valid_action: Whether the parser accepted the response, bool ``(S,)``.
        success: Of the whole trajectory, bool ``(S,)``.
        policy_version: Of the weights that acted, int64 ``(S,)``.
        next_anchor_key: The state that the action led to, hashable objects ``(S,)``: the anchor of the trajectory's
            next step, or after its last step the state that it ended in, None where that is not known. The column
            itself is None where no end is known.
        scores: Numbers of every step by name, float64 ``(S,)`` each, not a number where a step has none: from the
            environment's ``info["scores"]``, or from a ``StepScorer`` before credit is assigned. Absent by default.

    Raises:
        ValueError: If a column lacks rows or has a value of the wrong type, a reward is not finite, an id or a step is
            negative, an anchor is not hashable, two rows share a trajectory and a step, the rows of a trajectory
            differ in their group or their success, or a step leads to another state than the next one has; the message
            names the column and the row.
    """

    episode_group_id: np.ndarray
    trajectory_id: np.ndarray
    step_index: np.ndarray
    anchor_key: np.ndarray
    reward: np.ndarray
    valid_action: np.ndarray
    success: np.ndarray
    policy_version: np.ndarray
    next_anchor_key: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = checked_columns(self.columns())
        for name, values in columns.items():
            object.__setattr__(self, name, values)
        object.__setattr__(self, "scores", checked_scores(self.scores, len(self)))

    def __len__(self) -> int:
        return len(self.reward)

    def in_visit_order(self) -> "tuple[StepTable, np.ndarray[Any, np.dtype[np.int64]]]":
        """Sort the rows trajectory by trajectory, step by step.

        Returns:
            The sorted table, and for each of its rows the row here that it was, int64 ``(S,)``.
        """
        order = visit_order(self.trajectory_id, self.step_index)
        if (order == np.arange(len(order))).all():
            return self, order  # as a rollout's rows are
        return self.take(order), order

    def columns(self) -> dict[str, np.ndarray]:
        """Its columns by name, in their order; scores are none of them, nor is an absent column."""
        named = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "scores"}
        return {name: column for name, column in named.items() if column is not None}

    def take(self, rows: np.ndarray | Sequence[int]) -> "StepTable":
        """Some of its rows, each at most once; nothing is checked again, because no row is another.

        Args:
            rows: Their numbers, in the order that they are wanted in.
        """
        table = object.__new__(StepTable)
        object.__setattr__(table, "next_anchor_key", None)
        for name, column in self.columns().items():
            object.__setattr__(table, name, column[rows])
        object.__setattr__(table, "scores", {name: column[rows] for name, column in self.scores.items()})
        return table

    def with_ends(self, rows: np.ndarray) -> "StepTable":
        """Add a row one step later for the state that each of some rows led to, so that a grouping sees it.

        Args:
            rows: Last rows of trajectories, whose ``next_anchor_key`` is known.

        Returns:
            A table without ``next_anchor_key`` and scores: the rows, then the ends, valid and without a reward.
        """
        assert self.next_anchor_key is not None
        ends = self.take(rows)
        changes = {
            "anchor_key": ends.next_anchor_key,
            "step_index": ends.step_index + 1,
            "reward": np.zeros(len(rows)),
            "valid_action": np.ones(len(rows), dtype=bool),
        }
        table = object.__new__(StepTable)
        for name, column in (ends.columns() | changes).items():
            object.__setattr__(table, name, np.concatenate([getattr(self, name), column]))
        object.__setattr__(table, "next_anchor_key", None)
        object.__setattr__(table, "scores", {})
        return table

    @classmethod
    def from_groups(
        cls, groups: Sequence[TrajectoryGroup], scores: Mapping[str, Sequence[float]] | None = None
    ) -> "StepTable":
        """Flatten groups into rows, group by group, trajectory by trajectory, step by step.

        Args:
            groups: Complete groups; their position is their ``episode_group_id``.
            scores: Numbers of every step by name, in the order of iteration, beside the environment's own.

        Returns:
            A table with one row per step, in the order of iteration.

        Raises:
            ValueError: As the table; and if a score has the name of one of the environment's.
        """
        rows: dict[str, list[object]] = {column.name: [] for column in fields(cls) if column.name != "scores"}
        trajectory_id = 0
        for group_id, group in enumerate(groups):
            for trajectory in group.trajectories:
                reached = [*(step.anchor_key for step in trajectory.steps[1:]), trajectory.final_anchor]
                for index, (step, end) in enumerate(zip(trajectory.steps, reached, strict=False)):
                    row = (group_id, trajectory_id, index, step.anchor_key, step.reward, step.valid_action)
                    for name, value in zip(rows, (*row, trajectory.success, step.policy_version, end), strict=True):
                        rows[name].append(value)
                trajectory_id += 1
        if all(trajectory.final_anchor is None for group in groups for trajectory in group.trajectories):
            del rows["next_anchor_key"]
        columns: dict[str, Any] = {name: checked_column(name, values) for name, values in rows.items()}
        return cls(**columns, scores=_all_scores(groups, scores or {}))


def _all_scores(
    groups: Sequence[TrajectoryGroup], given: Mapping[str, Sequence[float]]
) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """The environment's scores and the given ones."""
    said = [step.scores for group in groups for trajectory in group.trajectories for step in trajectory.steps]
    names = dict.fromkeys(name for scores in said for name in scores)
    for name in names:
        if name in given:
            raise ValueError(f"scores[{name!r}] must have one source, but info['scores'] of the environment has it too")
    own = {name: np.array([scores.get(name, math.nan) for scores in said]) for name in names}
    return own | {name: np.asarray(each) for name, each in given.items()}


def visit_order(
    trajectory_id: np.ndarray[Any, np.dtype[np.int64]], step_index: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows trajectory by trajectory, step by step; no two may share both.

    Args:
        trajectory_id: Trajectory of each row, at least 0, ``(S,)``.
        step_index: Position in the trajectory, at least 0, ``(S,)``.

    Returns:
        Row numbers in that order, int64 ``(S,)``.
    """
    if not len(trajectory_id):
        return np.zeros(0, dtype=np.int64)
    lowest, num_steps = int(trajectory_id.min()), int(step_index.max()) + 1
    if (int(trajectory_id.max()) - lowest + 1) * num_steps >= 2**63:
        lexical: np.ndarray[Any, np.dtype[np.int64]] = np.lexsort((step_index, trajectory_id))
        return lexical
    key = (trajectory_id - lowest) * num_steps + step_index  # one key sorts several times faster than two
    if (key[1:] > key[:-1]).all():
        return np.arange(len(key))
    order: np.ndarray[Any, np.dtype[np.int64]] = np.argsort(key)
    return order
