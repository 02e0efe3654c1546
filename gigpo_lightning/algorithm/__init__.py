"""Returns, grouping, advantages and losses: arrays in, arrays out."""

from gigpo_lightning.algorithm.a2tgpo import A2TGPO
from gigpo_lightning.algorithm.advantages import Credit, CreditEstimator, OrderedEstimator, group_relative
from gigpo_lightning.algorithm.conformance import check_estimator
from gigpo_lightning.algorithm.corrections import (
    ImportanceCorrection,
    MaskedCorrection,
    NoCorrection,
    TruncatedCorrection,
)
from gigpo_lightning.algorithm.dr_grpo import DrGRPO
from gigpo_lightning.algorithm.g2po import G2PO
from gigpo_lightning.algorithm.gigpo import GiGPO
from gigpo_lightning.algorithm.graft import GRAFT
from gigpo_lightning.algorithm.graphgpo import GraphGPO
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, SimilarityGrouping
from gigpo_lightning.algorithm.grpo import GRPO
from gigpo_lightning.algorithm.hgpo import HGPO
from gigpo_lightning.algorithm.hoelder import HoelderRatio, HoelderTokens
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.algorithm.ratios import ImportanceRatio, SequenceRatio, TokenRatio
from gigpo_lightning.algorithm.rebel import ReBel
from gigpo_lightning.algorithm.reinforce_plus_plus import ReinforcePlusPlus
from gigpo_lightning.algorithm.returns import discounted_returns
from gigpo_lightning.algorithm.rewardflow import RewardFlow
from gigpo_lightning.algorithm.rloo import RLOO
from gigpo_lightning.algorithm.soft_gate import SoftGate
from gigpo_lightning.algorithm.surrogates import ClippedSurrogate, Surrogate
from gigpo_lightning.algorithm.token_credit import ForkingTokens, TokenCredit
from gigpo_lightning.algorithm.vpr import VPR

__all__ = [
    "A2TGPO",
    "G2PO",
    "GRAFT",
    "GRPO",
    "HGPO",
    "RLOO",
    "VPR",
    "ClippedSurrogate",
    "Credit",
    "CreditEstimator",
    "DrGRPO",
    "ExactGrouping",
    "ForkingTokens",
    "GiGPO",
    "GraphGPO",
    "Grouping",
    "HoelderRatio",
    "HoelderTokens",
    "ImportanceCorrection",
    "ImportanceRatio",
    "LossSettings",
    "MaskedCorrection",
    "NoCorrection",
    "OrderedEstimator",
    "ReBel",
    "ReinforcePlusPlus",
    "RewardFlow",
    "SequenceRatio",
    "SimilarityGrouping",
    "SoftGate",
    "Surrogate",
    "TokenCredit",
    "TokenRatio",
    "TruncatedCorrection",
    "check_estimator",
    "discounted_returns",
    "group_relative",
]
