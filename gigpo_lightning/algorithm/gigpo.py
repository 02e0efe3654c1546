"""GiGPO: credit at two levels (arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import (
    dense_ids,
    group_relative,
    penalised_rewards,
    step_returns,
    trajectory_scores,
)
from gigpo_lightning.algorithm.returns import episode_returns
from gigpo_lightning.algorithm.two_level import TwoLevelEstimator
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class GiGPO(TwoLevelEstimator):
    """A = A_E + ω·A_S: trajectories against their group, actions against others taken in the same state (Eq. 8).

    The defaults are the paper's. ``episode_statistics="step"`` with ``penalty_placement="step"`` gives the reference
    code's rules. Groups of one: the step level says 0; the episode level says 0 under trajectory statistics, and under
    step statistics a group of a single row keeps its raw score, undivided, as in the reference.

    Raises:
        ValueError: If an argument is out of its range, or the statistics and the placement have no meaning together.
    """

    discount: float = 0.95
    """γ of Eq. 5, of the step level's returns."""
    episode_statistics: Literal["trajectory", "step"] = "trajectory"
    """``"trajectory"`` takes mean and std over the N returns (Eq. 3); ``"step"`` over step rows, so that long episodes
    weigh more."""
    penalty_placement: Literal["reward", "step"] = "reward"
    """``"reward"`` makes the penalty part of r_t, so that it enters R(τ) and is discounted backwards; ``"step"`` takes
    it from that row's episode score and, after discounting, from that row's step return. With ``"step"``,
    ``own_step_penalty`` only means that a lone row's raw score is its reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("discount", self.discount, 0.0, 1.0)
        if self.episode_statistics not in ("trajectory", "step"):
            raise ValueError(f"episode_statistics must be 'trajectory' or 'step', got {self.episode_statistics!r}")
        if self.penalty_placement not in ("reward", "step"):
            raise ValueError(f"penalty_placement must be 'reward' or 'step', got {self.penalty_placement!r}")
        if self.episode_statistics == "trajectory" and self.penalty_placement == "step":
            raise ValueError(
                "penalty_placement must be 'reward' with episode_statistics='trajectory', got 'step': a penalty per "
                "step gives a trajectory no single return, and no publication says what to compare then"
            )

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """R_t = Σ_{k≥t} γ^{k−t} r_k (Eq. 5), ``(S,)``."""
        own = self.own_step_penalty or self.penalty_placement == "step"
        return step_returns(table, self.invalid_action_penalty, discount=self.discount, own_step_penalty=own)

    def episode_advantage(self, table: StepTable) -> Float64[ndarray, " S"]:
        """A_E of each row, ``(S,)``; over step rows it is R(τ) − mean over all rows of the group.

        As in the reference, a lone row then keeps its score.
        """
        if self.episode_statistics == "trajectory":
            return super().episode_advantage(table)
        scores = self._row_scores(table)
        group_ids = dense_ids(table.episode_group_id)
        advantage = group_relative(scores, group_ids, scale_by_std=self.scale_by_std)
        # A penalty says nothing where no other row could have been valid instead.
        alone = episode_returns(table.reward, table.trajectory_id) if self.own_step_penalty else scores
        return np.where(np.bincount(group_ids)[group_ids] == 1, alone, advantage)

    def _row_scores(self, table: StepTable) -> Float64[ndarray, " S"]:
        """What step statistics compare: R(τ) of each row's trajectory, with the penalty where it is placed."""
        if self.penalty_placement == "step":
            returns = episode_returns(table.reward, table.trajectory_id)
            return returns - self.invalid_action_penalty * ~table.valid_action
        if self.own_step_penalty:
            return trajectory_scores(table, self.invalid_action_penalty, own_step_penalty=True)
        return episode_returns(penalised_rewards(table, self.invalid_action_penalty), table.trajectory_id)
