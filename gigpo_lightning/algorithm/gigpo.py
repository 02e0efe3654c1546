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
    penalised_rewards,
    step_returns,
    trajectory_advantage,
    trajectory_scores,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, checked_groups
from gigpo_lightning.algorithm.returns import episode_returns
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
        own_step_penalty: Count the penalty where it was incurred and nowhere else: at the step level it is taken from
            the invalid step's own return, at the episode level the penalty times the share of invalid steps is taken
            from R(τ). A group without a valid reply and without a reward then gets exactly 0, whatever its lengths.
            Differs from the paper, whose rule is False: there such a group gets advantages by time and length alone.
            ``penalty_placement="step"`` takes it from its own row anyway; there the option only means that a lone
            row's raw score is its reward.

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
        own_step_penalty: bool = False,
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
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute both levels for every row."""
        step_group_id = checked_groups(self.grouping, table)
        returns = step_returns(
            table,
            self.invalid_action_penalty,
            discount=self.discount,
            own_step_penalty=self.own_step_penalty or self.penalty_placement == "step",
        )
        if self.episode_statistics == "trajectory":
            episode = trajectory_advantage(
                table,
                invalid_action_penalty=self.invalid_action_penalty,
                scale_by_std=self.scale_by_std,
                own_step_penalty=self.own_step_penalty,
            )
        else:
            episode = self._over_step_rows(table)
        return combine(
            episode,
            group_relative(returns, step_group_id, scale_by_std=self.scale_by_std),
            step_group_id,
            episode_advantage_weight=self.episode_advantage_weight,
            step_advantage_weight=self.step_advantage_weight,
        )

    def _over_step_rows(self, table: StepTable) -> Float64[ndarray, " S"]:
        """A_E by the reference's statistics: every step row of the group counts, and a lone row keeps its score."""
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
