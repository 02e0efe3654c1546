"""G²PO: step-level credit by the mean outcome of the states that a step led from and to (arXiv:2606.22995).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import dense_ids, group_relative
from gigpo_lightning.algorithm.gigpo import GiGPO
from gigpo_lightning.algorithm.returns import episode_returns
from gigpo_lightning.algorithm.two_level import steps_left
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class G2PO(GiGPO):
    """A = A_E + ω·A_S, with A_S = V(s') among steps from the same state + (V(s') − V(s)) among all steps of the task.

    V(s) is the mean of κ^(T−t)·R(τ) over all visits of s in the task. After its last step an episode is worth
    ``success_value`` if it succeeded, else 0. An invalid action's penalty is part of R(τ), as
    ``penalty_placement`` says, and is taken from its own step in the first term; V knows no penalty. The second term
    compares early steps with late ones, so that it is not 0 where all episodes went alike. Its code takes
    ``episode_statistics: step``, and an episode as successful whose return is 10.

    Raises:
        ValueError: If an argument is out of its range, or the statistics and the placement have no meaning together.
    """

    discount: float = field(default=0.95, init=False)
    value_discount: float = 0.95
    """κ of V, between 0 and 1."""
    success_value: float = 10.0
    """What the end of a success is worth, in units of reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("value_discount", self.value_discount, 0.0, 1.0)
        check_range("success_value", self.success_value)

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """V(s'), less the penalty, ``(S,)``."""
        following = self._values(table, step_group_id)[1]
        return following - self.invalid_action_penalty * ~table.valid_action

    def step_advantage(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """The two terms of A_S, added, ``(S,)``."""
        value, following = self._values(table, step_group_id)
        gain = group_relative(following - value, dense_ids(table.episode_group_id), scale_by_std=self.scale_by_std)
        gain += super().step_advantage(table, step_group_id)
        return gain

    def _values(
        self, table: StepTable, state: Int64[ndarray, " S"]
    ) -> tuple[Float64[ndarray, " S"], Float64[ndarray, " S"]]:
        """V of the state that each step started from, and of what it led to, ``(S,)`` each."""
        left = steps_left(table)
        outcome = self.value_discount**left * episode_returns(table.reward, table.trajectory_id)
        value: Float64[ndarray, " S"] = (np.bincount(state, outcome) / np.bincount(state))[state]
        end = np.where(table.success, self.success_value, 0.0)
        return value, np.where(left == 1, end, np.r_[value[1:], 0.0])
