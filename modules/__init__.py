"""LightningModules and the policies they train."""

from modules.policy import Policy, PolicySource, PretrainedPolicy, TinyPolicy

__all__ = ["Policy", "PolicySource", "PretrainedPolicy", "TinyPolicy"]
