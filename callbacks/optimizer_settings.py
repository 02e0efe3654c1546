"""The callback that gives a resumed run's optimizer and scheduler the present settings."""

import copy
import logging
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

_logger = logging.getLogger(__name__)

# Settings that have an optimizer remember more of every parameter than it did without.
_REMEMBERING = ("amsgrad", "centered")


class OptimizerSettings(Callback):
    """Has a run that goes on from a checkpoint take its optimizer's and scheduler's settings from the configuration.

    Without it they are the checkpoint's, as Lightning loads them. With it the optimizer keeps what it remembers of each
    parameter, such as Adam's moments, and each group of parameters gets the present learning rate, weight decay and so
    on. The scheduler is what a new one would be after as many steps. The command line adds this callback itself, as
    ``--optimizer_settings`` says.

    Args:
        source: ``config``, or ``checkpoint`` to change nothing and only say what differs.

    Raises:
        ValueError: If ``source`` is neither; when the run goes on, if the optimizer or the scheduler cannot take the
            settings.
    """

    def __init__(self, source: str = "config") -> None:
        if source not in ("checkpoint", "config"):
            raise ValueError(f"source must be 'checkpoint' or 'config', got {source!r}")
        self.source = source
        # What was made of the configuration, before a checkpoint's state was loaded into it.
        self._groups: list[list[dict[str, Any]]] = []  # the settings of each optimizer's groups of parameters
        self._schedulers: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the present settings, as long as they are there."""
        self._groups = [[_settings(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._schedulers = [_copied(vars(config.scheduler)) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what differs, and replace the checkpoint's settings if that is asked for."""
        if trainer.ckpt_path is None:
            return
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            _check(optimizer, groups)
            self._say(optimizer, groups)
            if self.source == "config":
                for group, settings in zip(optimizer.param_groups, groups, strict=True):
                    parameters = group["params"]
                    group.clear()
                    group |= copy.deepcopy(settings) | {"params": parameters}
        if self.source == "config":
            for config, new in zip(trainer.lr_scheduler_configs, self._schedulers, strict=True):
                _step_again(config.scheduler, new)

    def _say(self, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        """Name every setting that differs; a scheduled rate by what it started from."""
        for index, (theirs, ours) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            names = [name for name in ours if name != "lr" or "initial_lr" not in ours]
            for name in names:
                if name in theirs and _plain(theirs[name]) != _plain(ours[name]):
                    used = theirs[name] if self.source == "checkpoint" else ours[name]
                    _logger.info(
                        "optimizer, group %d: %s was %s in the checkpoint and is %s in the configuration; %s is used",
                        *(index, name.removeprefix("initial_"), theirs[name], ours[name], used),
                    )


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})


def _plain(value: Any) -> Any:
    """The same for a tuple and the list that a checkpoint or a YAML file makes of it."""
    return list(value) if isinstance(value, tuple) else value


def _copied(scheduler: dict[str, Any]) -> dict[str, Any]:
    """All that a scheduler is, and the optimizer itself."""
    return copy.deepcopy(scheduler, {id(scheduler["optimizer"]): scheduler["optimizer"]})


def _check(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Refuse settings of another optimizer, or for which it remembers too little."""
    name = type(optimizer).__name__
    for theirs, ours in zip(optimizer.param_groups, groups, strict=True):
        if missing := sorted(ours.keys() - theirs.keys() - {"initial_lr"}):
            raise ValueError(
                f"ckpt_path must name a checkpoint of a run with this optimizer, {name}; its one has no {missing[0]}"
            )
        for setting in _REMEMBERING:
            if ours.get(setting) and not theirs.get(setting):
                raise ValueError(
                    f"{setting} of {name} must be the checkpoint's, False, got {ours[setting]}: the optimizer does not "
                    "remember what it needs"
                )


def _step_again(scheduler: Any, new: dict[str, Any]) -> None:
    """Make a scheduler a new one, and step that as often as the old one was."""
    if "last_epoch" not in new:
        raise ValueError(
            f"OptimizerSettings('config') needs a scheduler that counts its steps, got {type(scheduler).__name__}"
        )
    steps = scheduler.last_epoch - new["last_epoch"]
    vars(scheduler).clear()
    vars(scheduler).update(_copied(new))
    with warnings.catch_warnings(action="ignore"):  # that the optimizer took no step in between
        for _ in range(steps):
            scheduler.step()
