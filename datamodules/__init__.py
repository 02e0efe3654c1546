"""LightningDataModules: fresh rollouts, and demonstrations for a warm start."""

from datamodules.rollout import RolloutDataModule

__all__ = ["RolloutDataModule"]
