"""A module's state in a checkpoint: all of it is checked before any of it is loaded."""

import copy
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.lightning_internals import metrics_to_be_logged
from gigpo_lightning.algorithm import CreditEstimator
from gigpo_lightning.random_states import keep_random_states, restore_random_states

_ARRAY = "numpy array"  # checkpoints are loaded without pickle, which knows tensors and not arrays

_KEPT = {"policy_version": int, "iteration": int, "credit": dict, "random_states": list, "unlogged": dict}


def unlogged_metrics(trainer: Trainer) -> dict[str, Any]:
    """An epoch's metrics while its checkpoint is written: Lightning logs them afterwards, if the process lives so long.

    Returns:
        ``step`` and ``metrics``; empty unless an epoch has just ended. Every rank must ask.
    """
    waiting = metrics_to_be_logged(trainer)
    if waiting is None:
        return {}
    step, metrics = waiting
    return {"step": step, "metrics": metrics | {"epoch": trainer.current_epoch}}


def log_again(trainer: Trainer, unlogged: dict[str, Any]) -> None:
    """Log what ``unlogged_metrics`` has kept, in the folder of the run that goes on."""
    for logger in trainer.loggers if unlogged else ():
        logger.log_metrics(unlogged["metrics"], unlogged["step"])
        logger.save()


def check_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor], rule: str) -> None:
    """Refuse the weights of another policy.

    Raises:
        ValueError: If a name is missing, unknown, or of another shape; the message begins with ``rule``.
    """
    other = sorted(theirs.keys() ^ ours.keys()) or [name for name in ours if ours[name].shape != theirs[name].shape]
    if other:
        raise ValueError(f"{rule} of this policy; in this one {other[0]} is another's")


def check_kept(checkpoint: dict[str, Any], credit: CreditEstimator, rule: str) -> dict[str, Any]:
    """What ``GiGPOModule`` keeps in a checkpoint, after a look at all of it.

    Raises:
        ValueError: If something is missing, or this estimator does not take what another remembered; the message
            begins with ``rule``.
    """
    kept = checkpoint.get("gigpo")
    if not isinstance(kept, dict):
        raise ValueError(f"{rule} that GiGPOModule wrote; this one has no 'gigpo' entry")
    for name, kind in _KEPT.items():
        if not isinstance(kept.get(name), kind) or not (kept[name] or kind is not list):
            raise ValueError(f"{rule} that this version of GiGPOModule wrote; in this one gigpo.{name} is missing")
    for states in kept["random_states"]:
        try:
            with keep_random_states():
                restore_random_states(states)
        except ValueError as error:
            raise ValueError(f"{rule} with random states to go on from: {error}") from error
    try:
        copy.deepcopy(credit).load_state_dict(restored(kept["credit"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{rule} of a run with this {type(credit).__name__}: {error!r}") from error
    return kept


def check_place(kept: dict[str, Any], lr_interval: str, rule: str) -> None:
    """Refuse a checkpoint whose place in its run no run can go on from.

    Raises:
        ValueError: If it was written before its epoch was over, or the scheduler counted something else.
    """
    if kept.get("within_epoch"):
        raise ValueError(f"{rule} from the end of an epoch; this one was written before its epoch was over")
    counted = kept.get("lr_interval", "epoch")
    if counted != lr_interval:
        raise ValueError(f"{rule} of a run with lr_interval {lr_interval!r}; this one had {counted!r}")


def check_training_state(checkpoint: dict[str, Any], num_parameters: int, has_scheduler: bool, rule: str) -> None:
    """Refuse a checkpoint that one can evaluate and not go on from.

    Raises:
        ValueError: If the optimizer's state is missing or another's, or there is no scheduler where the run has one,
            or the other way round; the message begins with ``rule``.
    """
    optimizers, schedulers = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
    if not optimizers or schedulers is None or "loops" not in checkpoint:
        raise ValueError(f"{rule} with the optimizer's state to go on from; this one has weights only")
    if has_scheduler != bool(schedulers):
        theirs, ours = ("one", "none") if schedulers else ("none", "one")
        raise ValueError(f"{rule} of a run with this model.lr_scheduler; it had {theirs}, this run has {ours}")
    known = sum(len(group["params"]) for group in optimizers[0]["param_groups"])
    if known != num_parameters:
        raise ValueError(f"{rule} of a run with this optimizer; it trained {known} tensors, this run {num_parameters}")


def storable(value: Any, owner: str) -> Any:
    """What an estimator remembers, as a checkpoint can hold it.

    Raises:
        TypeError: If there is something in it that loading would refuse; better now than when it is needed.
    """
    if isinstance(value, dict):
        return {key: storable(each, owner) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(storable(each, owner) for each in value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {_ARRAY: torch.from_numpy(value.copy())}
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value.item() if isinstance(value, np.generic) else value
    raise TypeError(
        f"{owner}.state_dict must hold numbers, strings, arrays and tensors, in dictionaries, lists and tuples; got a "
        f"{type(value).__name__}"
    )


def restored(value: Any) -> Any:
    """The inverse of ``storable``."""
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: restored(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(restored(each) for each in value)
    return value
