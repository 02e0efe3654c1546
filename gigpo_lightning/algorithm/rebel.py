"""ReBel: step-level credit among steps that believed the same (arXiv:2605.20061).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import group_relative
from gigpo_lightning.algorithm.named_scores import named_score
from gigpo_lightning.algorithm.returns import discounted_returns, episode_returns
from gigpo_lightning.algorithm.two_level import TwoLevelEstimator, steps_left
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class ReBel(TwoLevelEstimator):
    """A = A_E + ω·A_S, where A_S compares γ^(T−1−t)·R(τ), and how consistent the beliefs were from there on.

    The groups are steps with one belief about the world: an environment's anchor, or a ``grouping``, says which these
    are (its variant ``gt_phase``: phase, target, whether something is held and has changed). Both parts are compared in
    these groups and added; the episode level knows the environment's return alone. Neither is divided by a deviation.
    An invalid action's penalty is GiGPO's: part of R(τ) at the episode level, and taken from its own step's worth. An
    option of its code, which whitens by the type of task in the end, is not here: the table does not name types.

    Raises:
        ValueError: If an argument is out of its range; of a table, if it has not the score that is named.
    """

    step_advantage_weight: float = 0.5
    """ω of Eq. 8; .5 in its code."""
    scale_by_std: bool = field(default=False, init=False)
    discount: float = 0.95
    """γ of either part."""
    consistency_reward: str | None = None
    """The score that holds a step's reward for a consistent belief, by its name in ``info["scores"]`` or of a scorer;
    a step without it got 0. Default: there is none, and the second part is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("discount", self.discount, 0.0, 1.0)

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """γ^(T−1−t)·R(τ), less the penalty, ``(S,)``."""
        returns = episode_returns(table.reward, table.trajectory_id)
        worth: Float64[ndarray, " S"] = self.discount ** (steps_left(table) - 1) * returns
        return worth - self.invalid_action_penalty * ~table.valid_action

    def step_advantage(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """The two parts of A_S, added, ``(S,)``."""
        advantage = super().step_advantage(table, step_group_id)
        if self.consistency_reward is None:
            return advantage
        reward = np.nan_to_num(named_score(table, "consistency_reward", self.consistency_reward))
        believed = discounted_returns(reward, table.trajectory_id, table.step_index, discount=self.discount)
        advantage += group_relative(believed, step_group_id)
        return advantage
