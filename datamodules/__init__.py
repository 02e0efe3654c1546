"""LightningDataModules: fresh rollouts, and demonstrations for a warm start."""

from datamodules.demonstrations import DemonstrationDataModule
from datamodules.rollout import RolloutDataModule

__all__ = ["DemonstrationDataModule", "RolloutDataModule"]
