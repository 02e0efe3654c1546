"""The way of the weights to the engine and its proof: the one place that knows the callback's names for it."""

from typing import Any

from callbacks import WeightSync
from gigpo_lightning.rollout import RolloutEngine
from modules import GiGPOModule

WEIGHT_SYNC: dict[str, Any] = {"class_path": "callbacks.WeightSync"}
"""The callback in a configuration."""


def sync(module: GiGPOModule, engine: RolloutEngine) -> dict[str, float]:
    """Give an engine the module's weights and have it proved; what the callback then logs."""
    callback = weight_sync()
    callback.sync(module, engine)
    return {name.removeprefix("sync/"): value for name, value in callback.metrics.items() if name != "sync/seconds"}


def weight_sync(sleep: bool = False) -> WeightSync:
    """The callback."""
    return WeightSync(sleep=sleep)
