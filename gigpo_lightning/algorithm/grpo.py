"""GRPO over whole episodes: GiGPO without its step level (arXiv:2402.03300, Eq. 3 of arXiv:2505.10978)."""

from dataclasses import dataclass, field

from gigpo_lightning.algorithm.gigpo import GiGPO
from gigpo_lightning.algorithm.grouping import Grouping


@dataclass(kw_only=True, eq=False)
class GRPO(GiGPO):
    """A = A_E: every step gets its trajectory's advantage in its group, as in GiGPO with ω = 0.

    Its defaults are GiGPO's, so that changing only ``class_path`` compares only the step level. Differs from
    arXiv:2402.03300, which divides by the standard deviation: set ``scale_by_std``.
    """

    step_advantage_weight: float = field(default=0.0, init=False)
    episode_advantage_weight: float = field(default=1.0, init=False)
    discount: float = field(default=0.95, init=False)
    grouping: Grouping | None = field(default=None, init=False)
