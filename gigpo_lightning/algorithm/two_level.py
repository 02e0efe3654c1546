"""Credit at two levels: whole trajectories, and single steps taken in the same state (arXiv:2505.10978).

Shape letters: S = rows of the step table.
"""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import Credit, PenalisedEstimator, combine, group_relative
from gigpo_lightning.algorithm.grouping import Grouping, checked_groups
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class TwoLevelEstimator(PenalisedEstimator):
    """A = w·A_E + ω·A_S (Eq. 8), where A_S compares what steps from the same state were worth (Eq. 7).

    A subclass says what a step is worth. Groups of one get 0 at either level.

    Raises:
        ValueError: If an argument is out of its range.
    """

    step_advantage_weight: float = 1.0
    """ω of Eq. 8; 0 leaves the episode level alone."""
    episode_advantage_weight: float = 1.0
    """w, of A_E; 1 in Eq. 8, and 0 in the paper's ablation of the episode level."""
    scale_by_std: bool = False
    """Divide both levels by their groups' standard deviation (F_norm of Eqs. 3 and 7)."""
    grouping: Grouping | None = None
    """Finds the anchor groups; default: ``ExactGrouping()``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("step_advantage_weight", self.step_advantage_weight)
        check_range("episode_advantage_weight", self.episode_advantage_weight)

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute both levels for every row."""
        step_group_id = checked_groups(self.grouping, table)
        return combine(
            self.episode_advantage(table),
            self.step_advantage(table, step_group_id),
            step_group_id,
            episode_advantage_weight=self.episode_advantage_weight,
            step_advantage_weight=self.step_advantage_weight,
        )

    @abstractmethod
    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """What each step was worth, its penalty included, in units of reward, ``(S,)``."""

    def step_advantage(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """A_S of each row: what it was worth, among the steps of its group (Eq. 7), ``(S,)``."""
        worth = self.step_worth(table, step_group_id)
        return group_relative(worth, step_group_id, scale_by_std=self.scale_by_std)

    def episode_advantage(self, table: StepTable) -> Float64[ndarray, " S"]:
        """A_E of each row: its trajectory against its group, each trajectory counted once (Eq. 3), ``(S,)``."""
        return self.trajectory_advantage(table, scale_by_std=self.scale_by_std)


def steps_left(table: StepTable) -> Int64[ndarray, " S"]:
    """Steps of its trajectory from each row on, the row's own included, T − t, ``(S,)``.

    Args:
        table: The rollout, sorted by trajectory and step; a gap in ``step_index`` is not a step.
    """
    ends = np.flatnonzero(np.r_[np.diff(table.trajectory_id) != 0, True])
    left: Int64[ndarray, " S"] = np.repeat(ends, np.diff(np.r_[-1, ends])) - np.arange(len(table)) + 1
    return left
