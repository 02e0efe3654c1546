"""LightningModules and the policies they train."""

from modules.behaviour_cloning import BehaviourCloningModule
from modules.checkpoint_io import AtomicCheckpointIO
from modules.fsdp2 import FSDP2Strategy
from modules.gigpo import GiGPOModule
from modules.lora import AdaptedPolicy, LoraPolicy
from modules.policy import Policy, PolicySource
from modules.pretrained_policy import PretrainedPolicy
from modules.served_policy import ServedPolicy
from modules.tiny_policy import TinyPolicy

__all__ = [
    "AdaptedPolicy",
    "AtomicCheckpointIO",
    "BehaviourCloningModule",
    "FSDP2Strategy",
    "GiGPOModule",
    "LoraPolicy",
    "Policy",
    "PolicySource",
    "PretrainedPolicy",
    "ServedPolicy",
    "TinyPolicy",
]
