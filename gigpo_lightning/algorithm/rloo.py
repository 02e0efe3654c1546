"""RLOO: each trajectory against the mean of the others (arXiv:2402.14740)."""

import numpy as np

from gigpo_lightning.algorithm.advantages import (
    Credit,
    OrderedEstimator,
    combine,
    trajectories,
    trajectory_advantage,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, checked_groups
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


class RLOO(OrderedEstimator):
    """A trajectory's return less the mean return of the others of its group, for every one of its steps.

    Leaving a trajectory out of its own baseline makes the gradient unbiased: N/(N−1) times GRPO's advantage without
    standard deviation. A lone trajectory gets 0. Differs from GiGPO's reference code, whose RLOO leaves one step row
    out, so that a trajectory's other steps stay in its own baseline. The anchor groups are computed for their metrics
    and move nothing.

    Args:
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        own_step_penalty: Count the penalty where it was incurred and nowhere else, as in ``GiGPO``.

    Raises:
        ValueError: If the penalty is negative.
    """

    def __init__(self, invalid_action_penalty: float = 0.1, own_step_penalty: bool = False) -> None:
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        self.invalid_action_penalty = invalid_action_penalty
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage."""
        step_group_id = checked_groups(ExactGrouping(), table)
        centred = trajectory_advantage(
            table, invalid_action_penalty=self.invalid_action_penalty, own_step_penalty=self.own_step_penalty
        )
        _, trajectory, group_ids = trajectories(table)
        size = np.bincount(group_ids)[group_ids][trajectory]
        return combine(centred * size / np.maximum(size - 1, 1), np.zeros(len(table)), step_group_id)
