"""HGPO: step-level credit from groups that share ever more history (arXiv:2602.22817).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import (
    Credit,
    PenalisedEstimator,
    combine,
    dense_ids,
    group_relative,
    step_returns,
    trajectories,
)
from gigpo_lightning.algorithm.grouping import Grouping, checked_groups
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.trajectory import StepTable, visit_order


@dataclass(kw_only=True, eq=False)
class HGPO(PenalisedEstimator):
    """A = Σ_k w_k·A_k / Σ_k w_k with w_k = (k + 1)^α: A_k compares a step with those that share its last k states.

    Steps in one anchor state were perhaps prompted with different histories. For every k up to ``history_length`` + 1
    the steps are grouped by their last k states, the current one included. A_k is Eq. 7 of GiGPO in those groups; a
    group of one has no A_k, and a step that is alone for every k gets 0. With ``history_length`` = 0 it is GiGPO's step
    level alone.

    Differs from its code by default, in 9 to 18 % of small random tables: a group whose members agree counts with its
    0, as the paper's formula has it. The code drops zeros, so that what a longer history has shown to be equal is
    outvoted by the shorter ones (``count_zeros: false``), and subtracts the penalty after discounting
    (``own_step_penalty``); ``configs/credit/hgpo_reference.yaml`` sets both. With ``episode_group`` its A_0 has the
    mean and deviation over step rows; here it has Eq. 3's. Like its code it divides by the population's standard
    deviation (n).

    Raises:
        ValueError: If an argument is out of its range.
    """

    history_length: int = 2
    """States before the current one that a key may hold; the prompt's own memory, 2 in its paper."""
    length_weight_exponent: float = 1.0
    """α; 0 weighs all k alike, and the larger, the more the longest shared history decides."""
    episode_group: bool = False
    """Add the episode level's advantage as A_0, with the weight 1; off in its code."""
    count_zeros: bool = True
    """Give an advantage of exactly 0 its weight."""
    discount: float = 0.95
    """γ of the returns."""
    scale_by_std: bool = False
    """Divide by the groups' standard deviation; its published runs do."""
    grouping: Grouping | None = None
    """Finds the anchor groups; default: ``ExactGrouping()``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("history_length", self.history_length, 0)
        check_range("length_weight_exponent", self.length_weight_exponent)
        check_range("discount", self.discount, 0.0, 1.0)

    def estimate_in_order(self, table: StepTable) -> Credit:
        """A = Σ_k w_k·A_k / Σ_k w_k; ``episode_advantage`` is the term of k = 0, ``step_advantage`` the others."""
        step_group_id = checked_groups(self.grouping, table)
        returns = step_returns(
            table, self.invalid_action_penalty, discount=self.discount, own_step_penalty=self.own_step_penalty
        )
        groups = history_groups(table.trajectory_id, table.step_index, step_group_id, self.history_length)
        weighted, weights, episode = np.zeros(len(table)), np.zeros(len(table)), np.zeros(len(table))
        longest = len(groups) + 1.0  # weights in relation to the largest: none overflows
        if self.episode_group:
            episode = self.trajectory_advantage(table, scale_by_std=self.scale_by_std)
            _, trajectory, group_ids = trajectories(table)
            in_company = (np.bincount(group_ids)[group_ids] > 1)[trajectory]
            weights += longest**-self.length_weight_exponent * self._counts(episode, in_company)
        for k, ids in enumerate(groups, start=1):
            advantage = group_relative(returns, ids, scale_by_std=self.scale_by_std, correction=0)
            counts = self._counts(advantage, np.bincount(ids)[ids] > 1)
            weight = counts * ((k + 1) / longest) ** self.length_weight_exponent
            weighted += weight * advantage
            weights += weight
        weights[weights == 0] = 1.0  # nobody to compare with: 0 / 1
        share = episode * longest**-self.length_weight_exponent
        return combine(share / weights, weighted / weights, step_group_id)

    def _counts(self, advantage: Float64[ndarray, " S"], in_company: Bool[ndarray, " S"]) -> Bool[ndarray, " S"]:
        """Whether a row's group says anything of it, ``(S,)``."""
        return in_company if self.count_zeros else in_company & (advantage != 0)


def history_groups(
    trajectory_id: Int64[ndarray, " S"],
    step_index: Int64[ndarray, " S"],
    state: Int64[ndarray, " S"],
    history_length: int,
) -> list[Int64[ndarray, " S"]]:
    """Group steps by their last k states, for k = 1 to ``history_length`` + 1.

    Args:
        trajectory_id: Trajectory of each step, ``(S,)``.
        step_index: Position in the trajectory; a gap in it is not a step, ``(S,)``.
        state: The state that each action was chosen in, dense from 0 and of one episode group each, ``(S,)``.
        history_length: States before the current one, at most.

    Returns:
        For each k dense ids ``(S,)``; a step that has not k states behind it is alone in its group. The list ends early
        where no trajectory is that long: everybody would be alone.

    Example:
        >>> trajectory, step = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
        >>> [ids.tolist() for ids in history_groups(trajectory, step, np.array([0, 1, 2, 1, 0, 1]), 1)]
        [[0, 1, 2, 1, 0, 1], [2, 0, 3, 1, 4, 0]]
    """
    order = visit_order(trajectory_id, step_index)
    ordered = state[order]
    rows = np.arange(len(order))
    starts = np.r_[True, np.diff(trajectory_id[order]) != 0]
    position = rows - np.maximum.accumulate(np.where(starts, rows, 0))
    keys, groups = ordered, [state]
    for back in range(1, min(history_length, int(position.max())) + 1):
        earlier = np.r_[np.zeros(back, dtype=np.int64), ordered[:-back]]
        keys = keys * (ordered.max() + 1) + earlier
        alone = position < back
        keys[alone] = keys.max() + 1 + np.arange(alone.sum())
        keys = dense_ids(keys)
        ids = np.empty(len(order), dtype=np.int64)
        ids[order] = keys
        groups.append(ids)
    return groups
