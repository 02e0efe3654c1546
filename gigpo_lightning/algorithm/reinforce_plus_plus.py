"""REINFORCE++: returns whitened over the whole batch (arXiv:2501.03262)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gigpo_lightning.algorithm.advantages import Credit, PenalisedEstimator, combine, group_relative, step_returns
from gigpo_lightning.algorithm.grouping import checked_groups
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class ReinforcePlusPlus(PenalisedEstimator):
    """A_t = (R_t − mean of the batch) / std of the batch, with R_t the step's return from there on.

    The one estimator here that compares steps of different tasks: its baseline is the whole batch, every step row
    counted once. Differs from published code, which weighs a row by its number of tokens, and from the paper, whose
    return of a token holds −β·KL to the reference of all tokens to come; here the KL is a term of the loss
    (``kl_coefficient``), and no part of the advantage. Equal returns everywhere give exactly 0, and so does a single
    row.

    Raises:
        ValueError: If an argument is out of its range.
    """

    whole_batch: ClassVar[bool] = True
    """Several ranks would each whiten over their own episodes, which is another estimator."""

    discount: float = 1.0
    """γ of the returns; 1 in the paper."""
    group_baseline: bool = False
    """Use the trajectory's return less its group's mean instead, and whiten that: the paper's REINFORCE++-baseline, for
    several rollouts of one task. ``discount`` then plays no part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("discount", self.discount, 0.0, 1.0)

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage."""
        step_group_id = checked_groups(None, table)
        if self.group_baseline:
            values = self.trajectory_advantage(table)
        else:
            values = step_returns(
                table, self.invalid_action_penalty, discount=self.discount, own_step_penalty=self.own_step_penalty
            )
        batch = np.zeros(len(table), dtype=np.int64)
        whitened = group_relative(values, batch, scale_by_std=True)
        return combine(whitened, np.zeros(len(table)), step_group_id)
