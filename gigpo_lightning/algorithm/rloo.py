"""RLOO: each trajectory against the mean of the others (arXiv:2402.14740)."""

from dataclasses import dataclass

import numpy as np

from gigpo_lightning.algorithm.advantages import Credit, PenalisedEstimator, combine, trajectories
from gigpo_lightning.algorithm.grouping import checked_groups
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class RLOO(PenalisedEstimator):
    """A_i = R(τ_i) − mean of R(τ_j) over the others j ≠ i of its group, for every step of trajectory i.

    Leaving a trajectory out of its own baseline makes the gradient unbiased. A lone trajectory gets 0. Differs from
    GiGPO's reference code, whose RLOO leaves one step row out, so that a trajectory's other steps stay in its own
    baseline.
    """

    def estimate_in_order(self, table: StepTable) -> Credit:
        """A_i = N/(N−1) · (R(τ_i) − mean of all N), which is the same."""
        step_group_id = checked_groups(None, table)
        _, trajectory, group_ids = trajectories(table)
        size = np.bincount(group_ids)[group_ids][trajectory]
        advantage = self.trajectory_advantage(table) * size / np.maximum(size - 1, 1)
        return combine(advantage, np.zeros(len(table)), step_group_id)
