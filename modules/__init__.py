"""LightningModules and the policies they train."""

from modules.gigpo import GiGPOModule
from modules.policy import Policy, PolicySource, PretrainedPolicy, TinyPolicy

__all__ = ["GiGPOModule", "Policy", "PolicySource", "PretrainedPolicy", "TinyPolicy"]
