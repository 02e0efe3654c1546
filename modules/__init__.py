"""LightningModules and the policies they train."""

from modules.behaviour_cloning import BehaviourCloningModule
from modules.gigpo import GiGPOModule
from modules.policy import Policy, PolicySource, PretrainedPolicy, TinyPolicy

__all__ = ["BehaviourCloningModule", "GiGPOModule", "Policy", "PolicySource", "PretrainedPolicy", "TinyPolicy"]
