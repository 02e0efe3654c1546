"""REINFORCE++: returns whitened over the whole batch (arXiv:2501.03262)."""

import numpy as np

from gigpo_lightning.algorithm.advantages import (
    Credit,
    OrderedEstimator,
    combine,
    group_relative,
    step_returns,
    trajectory_advantage,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, checked_groups
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


class ReinforcePlusPlus(OrderedEstimator):
    """Each step's return from there on, less the batch's mean, over the batch's standard deviation.

    The one estimator here that compares steps of different tasks: its baseline is the whole batch, every step row
    counted once. Differs from published code, which weighs a row by its number of tokens. Equal returns everywhere give
    exactly 0, and so does a single row. The anchor groups are computed for their metrics and move nothing.

    Args:
        discount: γ of the returns; 1 in the paper.
        group_baseline: Use the trajectory's return less its group's mean instead, and whiten that: the paper's
            REINFORCE++-baseline, for several rollouts of one task. ``discount`` then plays no part.
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        own_step_penalty: Count the penalty where it was incurred and nowhere else, as in ``GiGPO``.

    Raises:
        ValueError: If an argument is out of its range.
    """

    whole_batch = True
    """Several ranks would each whiten over their own episodes, which is another estimator: they are refused."""

    def __init__(
        self,
        discount: float = 1.0,
        group_baseline: bool = False,
        invalid_action_penalty: float = 0.1,
        own_step_penalty: bool = False,
    ) -> None:
        check_range("discount", discount, 0.0, 1.0)
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        self.discount = discount
        self.group_baseline = group_baseline
        self.invalid_action_penalty = invalid_action_penalty
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage."""
        step_group_id = checked_groups(ExactGrouping(), table)
        penalty, own = self.invalid_action_penalty, self.own_step_penalty
        if self.group_baseline:
            values = trajectory_advantage(table, invalid_action_penalty=penalty, own_step_penalty=own)
        else:
            values = step_returns(table, penalty, discount=self.discount, own_step_penalty=own)
        batch = np.zeros(len(table), dtype=np.int64)
        whitened = group_relative(values, batch, scale_by_std=True)
        return combine(whitened, np.zeros(len(table)), step_group_id)
