"""Group-relative advantages (Eqs. 3, 7 and 8 of arXiv:2505.10978), and the one result type of every estimator.

Pure functions of arrays: no environment, no model, no Lightning.

Shape letters: S = rows of the step table (every step of every trajectory, flattened), N = trajectories.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.returns import discounted_returns, episode_returns
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credit:
    """What an estimator says of every step, in the table's row order.

    Attributes:
        advantage: What the loss multiplies, A of Eq. 8, ``(S,)``.
        episode_advantage: The episode level's part, A_E of Eq. 3, ``(S,)``.
        step_advantage: The step level's part before its weight, A_S of Eq. 7, ``(S,)``.
        step_group_id: Anchor group of each step, for the metrics where nothing is compared by it, ``(S,)``.
        metrics: Figures to be logged, by their TensorBoard names.
        clip_scale: Multiplies both clip ranges of a step's ratio, positive, ``(S,)``; None leaves them as they are.
    """

    advantage: Float64[ndarray, " S"]
    episode_advantage: Float64[ndarray, " S"]
    step_advantage: Float64[ndarray, " S"]
    step_group_id: Int64[ndarray, " S"]
    metrics: dict[str, float]
    clip_scale: Float64[ndarray, " S"] | None = None


@runtime_checkable
class CreditEstimator(Protocol):
    """Assigns an advantage to every step of a rollout.

    An implementation needs no base class, but the command line wants its annotations: equal to these, any for ``Any``.
    """

    def estimate(self, table: StepTable) -> Credit:
        """Compute the credit of every row of a table of complete groups."""

    def state_dict(self) -> dict[str, Any]:
        """What the estimator remembers between rollouts; empty for most.

        It goes into checkpoints: numbers, strings, arrays and tensors, in dictionaries, lists and tuples.
        """

    def load_state_dict(self, state: Any, /) -> None:
        """Take back what ``state_dict`` gave."""


@runtime_checkable
class ComparesTasks(Protocol):
    """An estimator that says whether it compares all episodes of an epoch, whatever their task."""

    whole_batch: bool
    """If so, a run of several ranks is refused: each knows only its own episodes."""


class OrderedEstimator(ABC):
    """For estimators that remember no earlier rollout and whose sums must not depend on the order of the rows.

    Sums of floats depend on their order by a rounding step. So the rows are sorted first, trajectory by trajectory,
    step by step, and what the estimator says of them is put back into the table's own order.
    """

    def estimate(self, table: StepTable) -> Credit:
        """Compute the credit of every row of a table of complete groups.

        Raises:
            ValueError: If the table has no row, or the estimator's grouping breaks its contract.
        """
        if not len(table):
            raise ValueError("table must have at least one row, got 0")
        ordered, order = table.in_visit_order()
        credit = self.estimate_in_order(ordered)
        if ordered is table:
            return credit
        back = np.argsort(order)
        columns = {column.name: getattr(credit, column.name) for column in fields(credit) if column.name != "metrics"}
        return replace(credit, **{name: column[back] for name, column in columns.items() if column is not None})

    @abstractmethod
    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute the credit of a table with at least one row, sorted by trajectory and step."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: no earlier rollout is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  meant to be left as it is
        """Nothing to take back."""


@dataclass(kw_only=True, eq=False)
class PenalisedEstimator(OrderedEstimator):
    """For estimators that subtract a penalty for every invalid action.

    Raises:
        ValueError: If the penalty is negative.
    """

    invalid_action_penalty: float = 0.1
    """Subtracted for an invalid action, in units of reward; a positive number."""
    own_step_penalty: bool = False
    """Count the penalty where it was incurred and nowhere else: it is taken from the invalid step's own return, and
    R(τ) loses the penalty times the share of invalid steps. A group without a valid reply and without a reward then
    gets exactly 0, whatever its lengths. Differs from the paper, whose rule is False: there such a group gets
    advantages by time and length alone."""

    def __post_init__(self) -> None:
        check_range("invalid_action_penalty", self.invalid_action_penalty, why="it is subtracted")

    def trajectory_advantage(
        self, table: StepTable, *, scale_by_std: bool = False, reward: Float64[ndarray, " S"] | None = None
    ) -> Float64[ndarray, " S"]:
        """A_E = R(τ) − mean of R over the episode group, each trajectory counted once (Eq. 3).

        Args:
            table: The rollout.
            scale_by_std: Divide by the standard deviation of the group's returns (n - 1).
            reward: What R is the sum of, ``(S,)``; default: the table's.

        Returns:
            The same advantage for every step of a trajectory, ``(S,)``; a lone trajectory gets 0.
        """
        scores = trajectory_scores(
            table, self.invalid_action_penalty, own_step_penalty=self.own_step_penalty, reward=reward
        )
        first, trajectory, group_ids = trajectories(table)
        by_trajectory = group_relative(scores[first], group_ids, scale_by_std=scale_by_std)
        advantage: Float64[ndarray, " S"] = by_trajectory[trajectory]
        return advantage


def combine(
    episode_advantage: Float64[ndarray, " S"],
    step_advantage: Float64[ndarray, " S"],
    step_group_id: Int64[ndarray, " S"],
    *,
    episode_advantage_weight: float = 1.0,
    step_advantage_weight: float = 1.0,
) -> Credit:
    """Add the two levels, A = w·A_E + ω·A_S (Eq. 8).

    Args:
        episode_advantage: A_E of each step, ``(S,)``.
        step_advantage: A_S of each step, ``(S,)``.
        step_group_id: Anchor group of each step, ``(S,)``.
        episode_advantage_weight: w, of A_E; 1 in Eq. 8.
        step_advantage_weight: ω, of A_S.
    """
    return Credit(
        advantage=episode_advantage_weight * episode_advantage + step_advantage_weight * step_advantage,
        episode_advantage=episode_advantage,
        step_advantage=step_advantage,
        step_group_id=step_group_id,
        metrics=anchor_metrics(episode_advantage, step_advantage, step_group_id),
    )


def group_relative(
    values: Float64[ndarray, " S"],
    group_ids: Int64[ndarray, " S"],
    *,
    scale_by_std: bool = False,
    correction: int = 1,
    eps: float = 1e-6,
) -> Float64[ndarray, " S"]:
    """Compare each value with its group, A = x − mean(x) or (x − mean(x)) / (std(x) + ε) (the form of Eqs. 3 and 7).

    A group of one, or of equal values, has nothing to compare: its advantages are exactly 0.
    Differs from the reference code, whose float32 mean can miss equal values by one rounding step, which division by
    ``eps`` turns into advantages of up to 0.5.

    Args:
        values: Returns, ``(S,)``; undiscounted per episode for Eq. 3, discounted for Eq. 7.
        group_ids: Group of each value, ``(S,)``, dense integers starting at 0.
        scale_by_std: Divide by the group's standard deviation.
        correction: Taken from n in the deviation's denominator: 1 for the sample's, 0 for the population's.
        eps: ε, in units of return.

    Returns:
        Advantages ``(S,)``; they sum to 0 within every group.

    Raises:
        ValueError: If a group id is negative.

    Example:
        >>> group_relative(np.array([1.0, 0.0, 5.0]), np.array([0, 0, 1]))
        array([ 0.5, -0.5,  0. ])
    """
    if group_ids.size and group_ids.min() < 0:
        raise ValueError(f"group_ids must be >= 0, got {group_ids.min()}")
    counts = np.maximum(np.bincount(group_ids), 1)
    means = np.bincount(group_ids, values) / counts
    centred: Float64[ndarray, " S"] = values - means[group_ids]
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, group_ids, values)
    np.maximum.at(high, group_ids, values)
    centred[~(low < high)[group_ids]] = 0.0  # not nearly 0: see "Differs from"
    if not scale_by_std:
        return centred
    squares = np.bincount(group_ids, centred**2)
    std = np.sqrt(squares / np.maximum(counts - correction, 1))
    centred /= std[group_ids] + eps
    return centred


def trajectory_scores(
    table: StepTable,
    invalid_action_penalty: float,
    *,
    own_step_penalty: bool = False,
    reward: Float64[ndarray, " S"] | None = None,
) -> Float64[ndarray, " S"]:
    """R(τ) = Σ r_t − p·(number of invalid steps) of each row's trajectory: what the episode level compares, ``(S,)``.

    Args:
        table: The rollout.
        invalid_action_penalty: p, a positive number.
        own_step_penalty: Subtract p·(share of invalid steps). Trajectories without a valid step then lose the same,
            whatever their length; otherwise a longer one loses more.
        reward: r_t, ``(S,)``; default: the table's.
    """
    # Penalties are counted, not summed: equal rewards and as many invalid actions give equal returns to the last bit.
    count = episode_returns((~table.valid_action).astype(np.float64), table.trajectory_id)
    if own_step_penalty:
        count /= episode_returns(np.ones(len(table)), table.trajectory_id)  # exactly 1 where no step is valid
    reward = table.reward if reward is None else reward
    return episode_returns(reward, table.trajectory_id) - invalid_action_penalty * count


def step_returns(
    table: StepTable, invalid_action_penalty: float, *, discount: float, own_step_penalty: bool = False
) -> Float64[ndarray, " S"]:
    """R_t = Σ_{k≥t} γ^{k−t} (r_k − p_k) (Eq. 5), with p_k the penalty if step k is invalid, else 0, ``(S,)``.

    Args:
        table: The rollout.
        invalid_action_penalty: p, a positive number.
        discount: γ, between 0 and 1.
        own_step_penalty: R_t = Σ_{k≥t} γ^{k−t} r_k − p_t instead: no earlier step pays for it.
    """
    if own_step_penalty:
        returns = discounted_returns(table.reward, table.trajectory_id, table.step_index, discount=discount)
        return returns - invalid_action_penalty * ~table.valid_action
    rewards = penalised_rewards(table, invalid_action_penalty)
    return discounted_returns(rewards, table.trajectory_id, table.step_index, discount=discount)


def trajectories(table: StepTable) -> tuple[Int64[ndarray, " N"], Int64[ndarray, " S"], Int64[ndarray, " N"]]:
    """Find the table's trajectories.

    Returns:
        A row of each, ``(N,)``; the trajectory of each row, from 0, ``(S,)``; the episode group of each, dense from 0,
        ``(N,)``.
    """
    _, first, trajectory = np.unique(table.trajectory_id, return_index=True, return_inverse=True)
    return first.astype(np.int64), trajectory.astype(np.int64), dense_ids(table.episode_group_id)[first]


def penalised_rewards(table: StepTable, invalid_action_penalty: float) -> Float64[ndarray, " S"]:
    """Each step's reward less the penalty for an invalid action: the paper's r_t, ``(S,)``."""
    rewards: Float64[ndarray, " S"] = table.reward - invalid_action_penalty * ~table.valid_action
    return rewards


def dense_ids(ids: Int64[ndarray, " S"]) -> Int64[ndarray, " S"]:
    """Number any ids from 0, without gaps, ``(S,)``."""
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)


def anchor_metrics(
    episode_advantage: Float64[ndarray, " S"],
    step_advantage: Float64[ndarray, " S"],
    step_group_id: Int64[ndarray, " S"],
) -> dict[str, float]:
    """How much the anchor groups had to compare.

    Returns:
        ``anchors/group_size_mean``: mean size over groups; ``anchors/singleton_fraction``: share of the steps that
        are alone in their group; ``anchors/nonzero_step_advantage_fraction``: share of the steps that the step level
        says something about; ``anchors/step_to_episode_ratio``: mean |A_S| over mean |A_E|, 0 where the latter is 0.
    """
    sizes = np.bincount(step_group_id)
    episode = float(np.abs(episode_advantage).mean())
    return {
        "anchors/group_size_mean": float(sizes.mean()),
        "anchors/singleton_fraction": float((sizes[step_group_id] == 1).mean()),
        "anchors/nonzero_step_advantage_fraction": float((step_advantage != 0).mean()),
        "anchors/step_to_episode_ratio": float(np.abs(step_advantage).mean()) / episode if episode else 0.0,
    }
