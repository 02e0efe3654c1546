"""Environments behind OpenEnv's wire (https://github.com/meta-pytorch/OpenEnv), without its package."""

from gigpo_lightning.environments.openenv.environment import OpenEnvEnvironment
from gigpo_lightning.environments.openenv.tasks import OpenEnvTasks

__all__ = ["OpenEnvEnvironment", "OpenEnvTasks"]
