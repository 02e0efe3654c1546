"""Tries the training setup on a policy without weights, and refuses it if it cannot work."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from callbacks.lightning_internals import settings_within_epochs, validation_interval
from gigpo_lightning.algorithm import CreditEstimator
from gigpo_lightning.algorithm.advantages import ComparesTasks
from gigpo_lightning.errors import ShapeUnknownError
from modules.policy import Policy, PolicySource

_LONGEST = 10_000  # epochs of a run that are gone through
_NO_END = 1_000  # epochs of a run without an end
_REFUSED = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, NotImplementedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of it.

    Attributes:
        policy: On the meta device; None if its shape is not known here.
        said: A line for a plan.
        monitor: The metric that the scheduler watches, if it watches one.
    """

    policy: Policy | None
    said: str
    monitor: str | None = None


def check_trainer(trainer: Any, credit: CreditEstimator) -> None:
    """Refuse a Trainer that would train something else than was asked for.

    Raises:
        ValueError: If its precision converts every tensor or scales gradients, it clips or accumulates gradients of its
            own, breaks epochs off, or has several ranks that would each see a part of what the estimator must see
            whole.
    """
    precision, ranks = str(trainer.precision), trainer.world_size
    if precision in ("bf16-true", "16-true", "64-true"):
        raise ValueError(
            f"trainer.precision must be 32-true or bf16-mixed, got {precision}: it would convert the batches as "
            "well; the type of the weights is policy.init_args.dtype"
        )
    if precision == "16-mixed":
        raise ValueError(
            "trainer.precision must be 32-true or bf16-mixed, got 16-mixed: it scales gradients, and max_grad_norm "
            "would be of the scaled ones"
        )
    for name, neutral in (("gradient_clip_val", (None, 0)), ("accumulate_grad_batches", (1,))):
        if getattr(trainer, name, neutral[0]) not in neutral:
            raise ValueError(
                f"trainer.{name} must be left out, got {getattr(trainer, name)}: max_grad_norm and the "
                "data's minibatch_size are in its place"
            )
    _check_that_epochs_are_whole(trainer)
    if ranks > 1 and ((isinstance(credit, ComparesTasks) and credit.whole_batch) or credit.state_dict()):
        raise ValueError(
            f"trainer.devices times trainer.num_nodes must be 1 with {type(credit).__name__}, got {ranks}: it "
            "compares or remembers all episodes of an epoch, and a rank knows only its own"
        )


def _check_that_epochs_are_whole(trainer: Any) -> None:
    """Refuse settings that would break an epoch off: an iteration plays once and learns from all that it has played."""
    whole = "an epoch is one iteration, which learns from every step that it has played"
    made_by_lightning = trainer.fast_dev_run or trainer.overfit_batches
    all_batches = trainer.limit_train_batches == 1.0 and isinstance(trainer.limit_train_batches, float)
    if not all_batches and not made_by_lightning:
        raise ValueError(
            f"trainer.limit_train_batches must be left out, got {trainer.limit_train_batches}: {whole}; fewer tasks "
            "are data.init_args.tasks_per_epoch"
        )
    if trainer.max_steps != -1 and not trainer.fast_dev_run:
        raise ValueError(
            f"trainer.max_steps must be left out, got {trainer.max_steps}: {whole}; use trainer.max_epochs"
        )
    interval = validation_interval(trainer)
    if not (isinstance(interval, float) and interval == 1.0):
        raise ValueError(
            f"trainer.val_check_interval must be left out, got {interval}: {whole}; use trainer.check_val_every_n_epoch"
        )
    if isinstance(trainer.overfit_batches, float) and trainer.overfit_batches:
        raise ValueError(
            f"trainer.overfit_batches must be a number of tasks, got {trainer.overfit_batches}: every epoch plays them "
            "again"
        )
    for callback in trainer.checkpoint_callbacks:
        early = settings_within_epochs(callback) if isinstance(callback, ModelCheckpoint) else {}
        for name, value in early.items():
            raise ValueError(
                f"{name} of {type(callback).__name__} must be left out, got {value}: a run can go on from the end of "
                "an epoch alone; use every_n_epochs"
            )


def rehearse_policy(source: PolicySource) -> Rehearsal:
    """Make a policy without its weights: on the meta device, from its configuration.

    Raises:
        ValueError: If it could not be made; the message begins with ``policy.init_args``.
    """
    make: Callable[[], Policy] | None = getattr(source, "skeleton", None)
    if make is None:
        return Rehearsal(policy=None, said=f"policy: {type(source).__name__}, whose shape cannot be checked")
    try:
        policy = make()
    except ShapeUnknownError as error:
        return Rehearsal(policy=None, said=f"policy: {type(source).__name__}; its shape could not be checked: {error}")
    except _REFUSED as error:
        said = " ".join(str(error).split())
        named = said.split(maxsplit=1)[0].partition(".")[0].rstrip(":") if said else ""
        own = named in inspect.signature(type(source)).parameters
        raise ValueError(f"policy.init_args{'.' if own else ': '}{said}") from error
    sizes = [(each.numel(), each.requires_grad) for each in policy.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    said = (
        f"policy: {type(source).__name__}, {sum(size for size, _ in sizes):,} parameters, {trained:,} of them trained"
    )
    return Rehearsal(policy=policy, said=said)


def rehearse_optimization(
    policy: Policy | None,
    make_optimizer: OptimizerCallable,
    make_lr_scheduler: LRSchedulerCallable | None,
    max_epochs: int | None,
    lr_interval: str = "epoch",
) -> str | None:
    """Make the optimizer of a policy, take a step with it, and step the scheduler through the whole run.

    A policy of None leaves out what only its shape could show; with ``max_epochs`` -1 or None the run has no end.

    Returns:
        The metric that the scheduler watches, if it watches one.

    Raises:
        ValueError: If one of them cannot train here; the message begins with ``optimizer`` or ``lr_scheduler``.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        if policy is not None:
            make_optimizer([each for each in policy.parameters() if each.requires_grad])
        weight = nn.Parameter(torch.ones(4, 4))
        optimizer = make_optimizer([weight])
        _check_numbers("optimizer", optimizer.defaults, type(optimizer))
        weight.grad = torch.ones_like(weight)
        _take_step(optimizer)
        if not torch.isfinite(weight).all():
            said = _settings(optimizer.defaults, type(optimizer))
            raise ValueError(
                f"optimizer must leave the weights finite, but a step of {_name(optimizer)} ruins them{said}"
            )
        if make_lr_scheduler is None:
            return None
        scheduler: Any = make_lr_scheduler(optimizer)
        monitor: str | None = getattr(scheduler, "monitor", None)
        if lr_interval == "step" and monitor is not None:
            raise ValueError(
                f"lr_interval must be 'epoch' with {_name(scheduler)}, got 'step': what it watches is logged once "
                "an epoch"
            )
        epochs = _NO_END if max_epochs is None or max_epochs < 0 else min(max_epochs, _LONGEST)
        own = inspect.signature(type(scheduler)).parameters
        held = {key: value for key, value in vars(scheduler).items() if key in own and key != "last_epoch"}
        _check_numbers("lr_scheduler", held, type(scheduler))
        _go_through(scheduler, optimizer, epochs)
        return monitor


def _take_step(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except _REFUSED as error:
        raise ValueError(
            "optimizer must take a step on dense gradients and without a closure, as every minibatch asks for one, but "
            f"{_name(optimizer)} cannot: {error}"
        ) from error


def _go_through(scheduler: Any, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    for epoch in range(1, epochs + 1):
        try:
            scheduler.step(*((0.0,) if getattr(scheduler, "monitor", None) is not None else ()))
        except _REFUSED as error:
            raise ValueError(
                "lr_scheduler must be stepped without a metric, or name one as lightning.pytorch.cli.ReduceLROnPlateau "
                f"does with monitor, but {_name(scheduler)} cannot go on to epoch {epoch}: {error}"
            ) from error
        for group in optimizer.param_groups:
            if not 0 <= float(group["lr"]) < math.inf:
                settings = _settings(vars(scheduler), type(scheduler))
                raise ValueError(
                    "lr_scheduler.init_args must keep the learning rate >= 0 and finite, but "
                    f"{_name(scheduler)} makes it {float(group['lr']):g} in epoch {epoch}{settings}"
                )


def _check_numbers(what: str, held: Mapping[str, Any], made: type) -> None:
    """Refuse numbers that are not finite, or negative where the class's own default is not."""
    parameters = inspect.signature(made).parameters
    for name, value in held.items():
        if name.startswith("_"):
            continue
        default = parameters[name].default if name in parameters else 0
        may_fall = any(number < 0 for number in _numbers(default))
        for number in _numbers(value):
            if not math.isfinite(number) or (number < 0 and not may_fall):
                raise ValueError(f"{what}.init_args.{name} must be >= 0 and finite, got {value}")
        if name == "momentum" and any(number > 1 for number in _numbers(value)):
            raise ValueError(f"{what}.init_args.{name} must be in [0, 1], got {value}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, torch.Tensor) and value.numel() == 1:
        yield float(value)
    elif isinstance(value, list | tuple | dict):
        for each in value:
            yield from _numbers(each)


def _settings(held: Mapping[str, Any], made: type) -> str:
    """The numbers that were given, as far as they have been kept under their names."""
    own = inspect.signature(made).parameters
    given = {key: value for key, value in held.items() if key in own and value != own[key].default}
    said = [f"{key} {value:g}" for key, value in given.items() if isinstance(value, int | float)]
    return f" with {', '.join(said)}" if said else ""


def _name(made: object) -> str:
    return type(made).__name__
