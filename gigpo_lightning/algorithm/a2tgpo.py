"""A²TGPO: what each turn told, compared with the same turn of the group, and clip ranges to match (arXiv:2605.06200).

Shape letters: S = rows of the step table.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import Credit, PenalisedEstimator, combine, dense_ids, group_relative
from gigpo_lightning.algorithm.grouping import checked_groups
from gigpo_lightning.algorithm.named_scores import named_score
from gigpo_lightning.algorithm.returns import discounted_returns
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class A2TGPO(PenalisedEstimator):
    """A_t = A_outcome + α·D_t, with D_t = Σ_{j≥t} γ^{j−t}·Ĩ_j / √(turns from t on that have one).

    I_t is what turn t told: how much likelier it made the gold answer (IGPO's reward). Ĩ_t compares it with the same
    turn of the other episodes of the group; a turn that no other episode of the group has gets 0. A_outcome is GRPO's.
    A turn that told much may move farther: ``clip_scale`` = 1 + δ·(2σ(Ĩ_t) − 1), 1 where a turn has no I. Its ratio is
    the whole turn's, ``SequenceRatio``. Checked against an article that quotes its code, not the code itself.

    Raises:
        ValueError: If an argument is out of its range; of a table, if it has not the score that is named.
    """

    information_gain: str | None = None
    """The score that holds I_t, by its name in ``info["scores"]`` or of a scorer; a step without it has none. Default:
    the reward of every step but an episode's last, whose reward then is all of the outcome, as IGPO has it."""
    turn_weight: float = 0.3
    """α, of the turns' advantage."""
    discount: float = 1.0
    """γ of D."""
    clip_sensitivity: float = 0.3
    """δ, at least 0 and below 1; 0 leaves every clip range as it is."""
    std_correction: Literal[0, 1] = 1
    """Taken from n in the deviation of I; which one its code takes is not known."""
    scale_by_std: bool = False
    """Divide the outcome's advantage by the standard deviation of the group's returns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("turn_weight", self.turn_weight)
        check_range("discount", self.discount, 0.0, 1.0)
        check_range("clip_sensitivity", self.clip_sensitivity, 0.0, 1 - 1e-9)
        if self.std_correction not in (0, 1):
            raise ValueError(f"std_correction must be 0 or 1, got {self.std_correction}")

    def estimate_in_order(self, table: StepTable) -> Credit:
        """``episode_advantage`` is A_outcome, ``step_advantage`` is D."""
        gain, outcome = self._gains(table)
        told = ~np.isnan(gain)
        turns = dense_ids(table.episode_group_id) * (int(table.step_index.max()) + 1) + table.step_index
        compared = np.zeros(len(table))
        compared[told] = group_relative(
            gain[told], dense_ids(turns[told]), scale_by_std=True, correction=self.std_correction
        )

        def ahead(values: Float64[ndarray, " S"], discount: float) -> Float64[ndarray, " S"]:
            return discounted_returns(values, table.trajectory_id, table.step_index, discount=discount)

        turns_ahead = np.maximum(ahead(told.astype(np.float64), 1.0), 1.0)
        credit = combine(
            self.trajectory_advantage(table, scale_by_std=self.scale_by_std, reward=outcome),
            ahead(compared, self.discount) / np.sqrt(turns_ahead),
            checked_groups(None, table),
            step_advantage_weight=self.turn_weight,
        )
        # 2σ(x) − 1 = tanh(x/2), which overflows nowhere
        return replace(credit, clip_scale=1.0 + self.clip_sensitivity * np.tanh(compared / 2))

    def _gains(self, table: StepTable) -> tuple[Float64[ndarray, " S"], Float64[ndarray, " S"]]:
        """I_t, not a number where a turn has none, and the reward that the outcome is made of, ``(S,)`` each."""
        if self.information_gain is not None:
            return named_score(table, "information_gain", self.information_gain), table.reward
        is_last = np.r_[np.diff(table.trajectory_id) != 0, True]
        return np.where(is_last, np.nan, table.reward), np.where(is_last, table.reward, 0.0)
