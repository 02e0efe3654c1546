"""Returns, grouping, advantages and losses: arrays in, arrays out."""

from gigpo_lightning.algorithm.advantages import Credit, CreditEstimator, group_relative
from gigpo_lightning.algorithm.gigpo import GiGPO
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping
from gigpo_lightning.algorithm.grpo import GRPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.algorithm.returns import discounted_returns

__all__ = [
    "GRPO",
    "Credit",
    "CreditEstimator",
    "ExactGrouping",
    "GiGPO",
    "Grouping",
    "LossSettings",
    "discounted_returns",
    "group_relative",
]
