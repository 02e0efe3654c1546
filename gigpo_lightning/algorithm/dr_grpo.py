"""Dr. GRPO: GRPO without its division by the standard deviation (arXiv:2503.20783)."""

from dataclasses import dataclass, field
from typing import Literal

from gigpo_lightning.algorithm.grpo import GRPO


@dataclass(kw_only=True, eq=False)
class DrGRPO(GRPO):
    """A = R(τ) − mean R(τ) of the group, for every step of the trajectory.

    Dividing by the standard deviation would weigh tasks by how much their returns agree; Dr. GRPO leaves it out. The
    other half of the method is in the loss, which must not divide by a reply's length: ``aggregation: sequence``.
    Differs from its code by a constant: its loss divides a reply's sum by the longest reply that may be written, this
    one by nothing. So gradients are that many times larger; Adam does not mind, but ``max_grad_norm`` does.
    Equal to ``GRPO()``, whose default leaves it out too, and with no way to put it back.
    """

    scale_by_std: bool = field(default=False, init=False)
    episode_statistics: Literal["trajectory", "step"] = field(default="trajectory", init=False)
    penalty_placement: Literal["reward", "step"] = field(default="reward", init=False)
