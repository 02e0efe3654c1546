"""LightningDataModules: fresh rollouts, stored rollouts, and demonstrations for a warm start."""

from datamodules.demonstrations import DemonstrationDataModule
from datamodules.replay import ReplayDataModule
from datamodules.rollout import RolloutDataModule

__all__ = ["DemonstrationDataModule", "ReplayDataModule", "RolloutDataModule"]
