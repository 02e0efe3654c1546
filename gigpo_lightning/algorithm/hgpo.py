"""HGPO: step-level credit from groups that share ever more history (arXiv:2602.22817).

Shape letters: S = rows of the step table.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import (
    Credit,
    OrderedEstimator,
    combine,
    dense_ids,
    group_relative,
    step_returns,
    trajectories,
    trajectory_advantage,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, checked_groups
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable, visit_order


class HGPO(OrderedEstimator):
    """Compares a step with those that share its last k states, for k = 1, 2, …, and averages what each k says.

    Steps in one anchor state were perhaps prompted with different histories. For every k up to ``history_length`` + 1
    the steps are grouped by their last k states, the current one included; each group of more than one gives an
    advantage as in Eq. 7 of GiGPO, with the weight (k + 1)^α. A step that is alone for every k gets 0. With
    ``history_length`` = 0 it is GiGPO's step level alone.

    Differs from its code in two ways: a group whose members agree counts with its 0 (the code drops zeros, so that what
    a longer history has shown to be equal is outvoted by the shorter ones: ``count_zeros: false``), and there is no
    epsilon in the sum of the weights. Like its code it divides by the population's standard deviation (n).

    Args:
        history_length: States before the current one that a key may hold; the prompt's own memory, 2 in its paper.
        length_weight_exponent: α; 0 weighs all k alike, and the larger, the more the longest shared history decides.
        episode_group: Add the episode level's advantage as k = 0, with the weight 1; off in its code.
        count_zeros: Give an advantage of exactly 0 its weight.
        discount: γ of the returns.
        scale_by_std: Divide by the groups' standard deviation; its published runs do.
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        grouping: Finds the anchor groups; default: ``ExactGrouping()``.
        own_step_penalty: Count the penalty where it was incurred and nowhere else, as in ``GiGPO``.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        history_length: int = 2,
        length_weight_exponent: float = 1.0,
        episode_group: bool = False,
        count_zeros: bool = True,
        discount: float = 0.95,
        scale_by_std: bool = False,
        invalid_action_penalty: float = 0.1,
        grouping: Grouping | None = None,
        own_step_penalty: bool = False,
    ) -> None:
        check_range("history_length", float(history_length))
        check_range("length_weight_exponent", length_weight_exponent)
        check_range("discount", discount, 0.0, 1.0)
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        self.history_length = history_length
        self.length_weight_exponent = length_weight_exponent
        self.episode_group = episode_group
        self.count_zeros = count_zeros
        self.discount = discount
        self.scale_by_std = scale_by_std
        self.invalid_action_penalty = invalid_action_penalty
        self.grouping: Grouping = ExactGrouping() if grouping is None else grouping
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage; ``episode_advantage`` is the episode group's share of it."""
        step_group_id = checked_groups(self.grouping, table)
        penalty, own = self.invalid_action_penalty, self.own_step_penalty
        returns = step_returns(table, penalty, discount=self.discount, own_step_penalty=own)
        groups = history_groups(table.trajectory_id, table.step_index, step_group_id, self.history_length)
        weighted, weights, episode = np.zeros(len(table)), np.zeros(len(table)), np.zeros(len(table))
        longest = len(groups) + 1.0  # weights in relation to the largest: none overflows
        if self.episode_group:
            episode = trajectory_advantage(
                table, invalid_action_penalty=penalty, scale_by_std=self.scale_by_std, own_step_penalty=own
            )
            weights += longest**-self.length_weight_exponent * self._counts(episode, several_trajectories(table))
        for k, ids in enumerate(groups, start=1):
            advantage = group_relative(returns, ids, scale_by_std=self.scale_by_std, correction=0)
            weight = (
                self._counts(advantage, np.bincount(ids)[ids] > 1) * ((k + 1) / longest) ** self.length_weight_exponent
            )
            weighted += weight * advantage
            weights += weight
        weights[weights == 0] = 1.0  # nobody to compare with: 0 / 1
        share = episode * longest**-self.length_weight_exponent
        return combine(share / weights, weighted / weights, step_group_id)

    def _counts(self, advantage: Float64[ndarray, " S"], in_company: Bool[ndarray, " S"]) -> Bool[ndarray, " S"]:
        """Whether a row's group says anything of it, ``(S,)``."""
        return in_company if self.count_zeros else in_company & (advantage != 0)


def several_trajectories(table: StepTable) -> Bool[ndarray, " S"]:
    """Whether a row's episode group has more than one trajectory, ``(S,)``."""
    _, trajectory, group_ids = trajectories(table)
    several: Bool[ndarray, " S"] = (np.bincount(group_ids)[group_ids] > 1)[trajectory]
    return several


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
