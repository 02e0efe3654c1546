"""Runs that are killed or stopped at a chosen moment, and what is left of them to be compared."""

import io
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gigpo_lightning.algorithm import Credit, GiGPO
from gigpo_lightning.environments.gridworld import GridworldEnvironment
from gigpo_lightning.trajectory import StepTable

Moment = Literal["rollout", "update", "checkpoint", "evaluation"]

# The clock's, and the machine's.
NOT_COMPARED = ("time/", "memory/", "sync/seconds", "rollout/tokens_per_second", "rollout/episodes_per_second")

_save = torch.save


class Saboteur(Callback):
    """Sends its own process a signal, once, at a chosen moment of an epoch.

    Args:
        moment: While episodes are played, before the second minibatch, once half of a checkpoint is written, or in the
            evaluation at the epoch's end.
        epoch: From 0.
        number: Which request to the engine in that rollout, or which checkpoint of that epoch.
        kill: SIGKILL, which nobody can answer; else SIGTERM.
        rank: The one of several processes that does it.
    """

    def __init__(self, moment: Moment, epoch: int, number: int = 1, kill: bool = True, rank: int = 0) -> None:
        self.moment = moment
        self.epoch = epoch
        self.number = number
        self.kill = kill
        self.rank = rank
        self.count = 0

    def setup(self, trainer, pl_module, stage):
        if trainer.global_rank != self.rank:
            self.epoch = -1
        if self.moment == "rollout":
            engine = trainer.datamodule.player.engine
            submit = engine.submit

            def counted(request):
                submit(request)
                if pl_module.iteration == self.epoch and not (trainer.sanity_checking or trainer.validating):
                    self.strike()

            engine.submit = counted
        if self.moment == "checkpoint":

            def half(value, file, **options):
                ours = isinstance(value, dict) and value.get("gigpo", {}).get("iteration") == self.epoch + 1
                if not ours or self.count + 1 < self.number:
                    self.count += ours
                    _save(value, file, **options)
                    return
                whole = io.BytesIO()
                _save(value, whole)
                file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
                file.flush()
                self.strike()

            torch.save = half

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.moment == "update" and pl_module.iteration == self.epoch and batch_idx == 1:
            self.strike()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if self.moment == "evaluation" and pl_module.iteration == self.epoch and not trainer.sanity_checking:
            self.strike()

    def strike(self) -> None:
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL if self.kill else signal.SIGTERM)


class SlipperyGridworld(GridworldEnvironment):
    """Draws from every global generator of the process, each rank a number of times: one step in eight goes wrong."""

    def step(self, action):
        for _ in range(1 + int(os.environ.get("RANK", "0"))):
            draws = random.random() + np.random.rand() + float(torch.rand(()))
        return super().step("north" if draws % 1 < 0.125 else action)


class RememberingGiGPO(GiGPO):
    """An estimator whose advantages depend on all rollouts before."""

    def __init__(self) -> None:
        super().__init__()
        self.returns = np.zeros(0)

    def estimate(self, table: StepTable) -> Credit:
        self.returns = np.append(self.returns, table.reward.sum())
        credit = super().estimate(table)
        return replace(credit, advantage=credit.advantage / (1.0 + 0.01 * np.abs(self.returns).sum()))

    def state_dict(self) -> dict[str, Any]:
        return {"returns": self.returns}

    def load_state_dict(self, state: Any, /) -> None:
        self.returns = state["returns"]


def versions(root: Path) -> list[Path]:
    """A run's folders, the first part of it first."""
    return sorted((root / "lightning_logs").glob("version_*"), key=lambda path: int(path.name.rpartition("_")[2]))


def scalars(root: Path) -> dict[tuple[str, int], float]:
    """Every value in TensorBoard by name and step; the later of two versions wins."""
    values = {}
    for folder in versions(root):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith(NOT_COMPARED):
                values |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return values


def final_state(root: Path) -> dict:
    """What the last checkpoint holds of weights, optimizer, schedulers and the module's own.

    It is the last version's, unless that had nothing left to do: a run may be killed once it has written all.
    """
    *_, file = (file for each in versions(root) if (file := each / "checkpoints" / "last.ckpt").exists())
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["gigpo"].pop("unlogged")  # seconds, too
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "gigpo")}


def assert_equal(one: object, other: object, where: str = "") -> None:
    """Two nested values are equal to the last bit."""
    pair = (list, tuple)  # a strategy that shards makes one of the other
    assert type(one) is type(other) or (isinstance(one, pair) and isinstance(other, pair)), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, pair):
        assert len(one) == len(other), where
        for index, both in enumerate(zip(one, other, strict=True)):
            assert_equal(*both, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs ended with the same state, and logged the same metrics on the way."""
    assert_equal(final_state(one), final_state(other))
    assert scalars(one) == scalars(other)


def saboteur(moment: Moment, epoch: int, number: int = 1, *, kill: bool = True, rank: int = 0) -> list[str]:
    """Options that add one to a run's callbacks."""
    options = {"moment": moment, "epoch": epoch, "number": number, "kill": str(kill).lower(), "rank": rank}
    words = [word for name, value in options.items() for word in (f"--trainer.callbacks.{name}", str(value))]
    return ["--trainer.callbacks+=tests.resume_run.Saboteur", *words]
