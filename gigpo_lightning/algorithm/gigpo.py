"""GiGPO: credit at two levels (arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import (
    Credit,
    OrderedEstimator,
    combine,
    dense_ids,
    group_relative,
    trajectory_advantage,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, checked_groups
from gigpo_lightning.algorithm.returns import discounted_returns, episode_returns
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


class GiGPO(OrderedEstimator):
    """A = A_E + ω·A_S: trajectories against their group, actions against others taken in the same state (Eq. 8).

    The defaults are the paper's. ``episode_statistics="step"`` with ``penalty_placement="step"`` gives the reference
    code's rules. Groups of one: the step level says 0; the episode level says 0 under trajectory statistics, and under
    step statistics a group of a single row keeps its raw score, undivided, as in the reference.

    Args:
        step_advantage_weight: ω of Eq. 8; 0 leaves GRPO.
        discount: γ of Eq. 5, of the step level's returns.
        scale_by_std: Divide both levels by their groups' standard deviation (F_norm of Eqs. 3 and 7).
        episode_statistics: ``"trajectory"`` takes mean and std over the N returns (Eq. 3); ``"step"`` over step rows,
            so that long episodes weigh more.
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        penalty_placement: ``"reward"`` makes it part of r_t, so that it enters R(τ) and is discounted backwards;
            ``"step"`` takes it from that row's episode score and, after discounting, from that row's step return.
        grouping: Finds the anchor groups; default: ``ExactGrouping()``.
        episode_advantage_weight: Of A_E; 1 in Eq. 8, and 0 in the paper's ablation of the episode level.

    Raises:
        ValueError: If an argument is out of its range, or the statistics and the placement have no meaning together.
    """

    def __init__(
        self,
        step_advantage_weight: float = 1.0,
        discount: float = 0.95,
        scale_by_std: bool = False,
        episode_statistics: Literal["trajectory", "step"] = "trajectory",
        invalid_action_penalty: float = 0.1,
        penalty_placement: Literal["reward", "step"] = "reward",
        grouping: Grouping | None = None,
        episode_advantage_weight: float = 1.0,
    ) -> None:
        check_range("step_advantage_weight", step_advantage_weight)
        check_range("episode_advantage_weight", episode_advantage_weight)
        check_range("discount", discount, 0.0, 1.0)
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        if episode_statistics not in ("trajectory", "step"):
            raise ValueError(f"episode_statistics must be 'trajectory' or 'step', got {episode_statistics!r}")
        if penalty_placement not in ("reward", "step"):
            raise ValueError(f"penalty_placement must be 'reward' or 'step', got {penalty_placement!r}")
        if episode_statistics == "trajectory" and penalty_placement == "step":
            raise ValueError(
                "penalty_placement must be 'reward' with episode_statistics='trajectory', got 'step': a penalty per "
                "step gives a trajectory no single return, and no publication says what to compare then"
            )
        self.step_advantage_weight = step_advantage_weight
        self.discount = discount
        self.scale_by_std = scale_by_std
        self.episode_statistics = episode_statistics
        self.invalid_action_penalty = invalid_action_penalty
        self.penalty_placement = penalty_placement
        self.grouping: Grouping = ExactGrouping() if grouping is None else grouping
        self.episode_advantage_weight = episode_advantage_weight

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute both levels for every row."""
        step_group_id = checked_groups(self.grouping, table)
        penalty = self.invalid_action_penalty * ~table.valid_action
        in_reward = self.penalty_placement == "reward"
        rewards = table.reward - penalty if in_reward else table.reward
        returns = discounted_returns(rewards, table.trajectory_id, table.step_index, discount=self.discount)
        if self.episode_statistics == "trajectory":
            episode = trajectory_advantage(
                table, invalid_action_penalty=self.invalid_action_penalty, scale_by_std=self.scale_by_std
            )
        else:
            scores = episode_returns(rewards, table.trajectory_id)
            episode = self._over_step_rows(table, scores if in_reward else scores - penalty)
        step = group_relative(
            returns if in_reward else returns - penalty, step_group_id, scale_by_std=self.scale_by_std
        )
        return combine(
            episode,
            step,
            step_group_id,
            episode_advantage_weight=self.episode_advantage_weight,
            step_advantage_weight=self.step_advantage_weight,
        )

    def _over_step_rows(self, table: StepTable, scores: Float64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """A_E by the reference's statistics: every step row of the group counts, and a lone row keeps its score."""
        group_ids = dense_ids(table.episode_group_id)
        advantage = group_relative(scores, group_ids, scale_by_std=self.scale_by_std)
        return np.where(np.bincount(group_ids)[group_ids] == 1, scores, advantage)
