"""LightningModules and the policies they train."""

from modules.behaviour_cloning import BehaviourCloningModule
from modules.checkpoint_io import AtomicCheckpointIO
from modules.gigpo import GiGPOModule
from modules.policy import Policy, PolicySource, PretrainedPolicy, TinyPolicy

__all__ = [
    "AtomicCheckpointIO",
    "BehaviourCloningModule",
    "GiGPOModule",
    "Policy",
    "PolicySource",
    "PretrainedPolicy",
    "TinyPolicy",
]
