"""VPR: rewards of single turns, compared with those of the same turn number (arXiv:2605.10325, its first version).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import Credit, OrderedEstimator, combine, dense_ids, group_relative
from gigpo_lightning.algorithm.grouping import checked_groups
from gigpo_lightning.algorithm.named_scores import named_score
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class VPR(OrderedEstimator):
    """A_t = (r_t − mean) / (std + ε) over all rows of the batch with the turn number t; no return, no episode level.

    Where fewer than ``min_rows`` rows have a turn number, the mean and the deviation are the whole batch's. Both
    deviations are the population's (n). It needs a reward that says of every turn how good it was, such as an oracle's.
    Turns of different tasks and states are compared, as its code has it. Differs from the paper's current version,
    which compares several candidate actions in one state: that needs environments which can be forked.

    Raises:
        ValueError: If an argument is out of its range; of a table, if it has not the score that is named.
    """

    whole_batch: ClassVar[bool] = True
    """Several ranks would each compare their own episodes, which is another estimator."""

    process_reward: str | None = None
    """The score that holds the turn's reward, by its name in ``info["scores"]`` or of a scorer; default: the reward of
    the environment. A step without that score gets 0."""
    outcome_scale: float = 0.0
    """Added to the last step of a success before anything is compared; 0 in its Sokoban script."""
    min_rows: int = 4
    """Rows that a turn number needs for statistics of its own."""
    invalid_action_penalty: float = 0.1
    """Subtracted from the reward of an invalid step, and of no other; a positive number. Its code subtracts
    nothing: there the environment's reward says it, -2 in Sokoban."""

    def __post_init__(self) -> None:
        check_range("outcome_scale", self.outcome_scale)
        check_count("min_rows", self.min_rows)
        check_range("invalid_action_penalty", self.invalid_action_penalty, why="it is subtracted")

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage; it is all of ``step_advantage``."""
        reward = self._rewards(table)
        known = ~np.isnan(reward)
        values, turns = reward[known], dense_ids(table.step_index[known])
        batch = np.zeros(len(values), dtype=np.int64)
        by_turn, by_batch = (group_relative(values, ids, scale_by_std=True, correction=0) for ids in (turns, batch))
        advantage = np.zeros(len(table))
        advantage[known] = np.where(np.bincount(turns)[turns] < self.min_rows, by_batch, by_turn)
        return combine(np.zeros(len(table)), advantage, checked_groups(None, table))

    def _rewards(self, table: StepTable) -> Float64[ndarray, " S"]:
        """What is compared, not a number where a step has no score, ``(S,)``."""
        name = self.process_reward
        reward = table.reward if name is None else named_score(table, "process_reward", name)
        ends = np.r_[np.diff(table.trajectory_id) != 0, True] & table.success
        values: Float64[ndarray, " S"] = reward + self.outcome_scale * ends
        return values - self.invalid_action_penalty * ~table.valid_action
