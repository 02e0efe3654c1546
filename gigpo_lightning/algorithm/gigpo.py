"""GiGPO: credit at two levels (arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import Credit, anchor_metrics, dense_ids, group_relative
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, checked_groups
from gigpo_lightning.algorithm.returns import discounted_returns, episode_returns
from gigpo_lightning.trajectory import StepTable


class GiGPO:
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
    ) -> None:
        if not (np.isfinite(step_advantage_weight) and step_advantage_weight >= 0):
            raise ValueError(f"step_advantage_weight must be >= 0, got {step_advantage_weight}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {discount}")
        if not (np.isfinite(invalid_action_penalty) and invalid_action_penalty >= 0):
            raise ValueError(f"invalid_action_penalty must be >= 0 (it is subtracted), got {invalid_action_penalty}")
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

    def estimate(self, table: StepTable) -> Credit:
        """Compute both levels for every row.

        Raises:
            ValueError: If the table has no row, or the grouping breaks its contract.
        """
        if not len(table):
            raise ValueError("table must have at least one row, got 0")
        penalty = self.invalid_action_penalty * ~table.valid_action
        in_reward = self.penalty_placement == "reward"
        rewards = table.reward - penalty if in_reward else table.reward
        scores = episode_returns(rewards, table.trajectory_id)
        returns = discounted_returns(rewards, table.trajectory_id, table.step_index, discount=self.discount)
        if not in_reward:
            scores, returns = scores - penalty, returns - penalty
        episode = self._episode_advantage(table, scores)
        step_group_id = checked_groups(self.grouping, table)
        step = group_relative(returns, step_group_id, scale_by_std=self.scale_by_std)
        return Credit(
            advantage=episode + self.step_advantage_weight * step,
            episode_advantage=episode,
            step_advantage=step,
            step_group_id=step_group_id,
            metrics=anchor_metrics(episode, step, step_group_id),
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: GiGPO remembers no earlier rollout."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    def _episode_advantage(self, table: StepTable, scores: Float64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """A_E of each row (Eq. 3), from the score of its trajectory."""
        group_ids = dense_ids(table.episode_group_id)
        if self.episode_statistics == "step":
            advantage = group_relative(scores, group_ids, scale_by_std=self.scale_by_std)
            alone = np.bincount(group_ids)[group_ids] == 1
            return np.where(alone, scores, advantage)
        _, first, trajectory = np.unique(table.trajectory_id, return_index=True, return_inverse=True)
        per_trajectory = group_relative(scores[first], group_ids[first], scale_by_std=self.scale_by_std)
        return per_trajectory[trajectory]
