"""A look at weights before they are kept or sampled from: a step can ruin them although its gradient is finite."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from callbacks.lightning_internals import last_saved, trainer_of
from gigpo_lightning.ranks import gather
from modules.finite import first_not_finite
from modules.sharding import PREFIX


def check_finite_weights(module: LightningModule, epoch: int | None = None) -> None:
    """Refuse trained weights, or an optimizer's state, that are not finite; ranks with shares must ask together.

    Weights and Adam's two moments are read once, at 5 GB/s on one core: 1 ms for the tiny policies, 4 s for 1.5 billion
    float32 weights on a CPU, and on a GPU milliseconds.

    Args:
        module: The module; what it does not train is left out, for it does not change.
        epoch: The epoch of the latest update; None if there was none since the weights were loaded.

    Raises:
        FloatingPointError: If a number is not finite, on every rank; the message names the first tensor.
    """
    trainer = trainer_of(module)
    found = first_not_finite(_kept(module, trainer))
    root = trainer.strategy.model if trainer is not None else None
    if isinstance(root, FullyShardedDataParallel) or any(isinstance(each, DTensor) for each in module.parameters()):
        found = next(filter(None, gather(found)), "")
    if not found:
        return
    if epoch is None or trainer is None:
        raise FloatingPointError(f"{found} must be finite, but was not when it was loaded")
    rates = sorted({float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups})
    raise FloatingPointError(
        f"{found} must be finite, but is not after the updates of epoch {epoch}; it is not kept, and no checkpoint was "
        f"replaced. Lower the learning rate (now {', '.join(f'{rate:g}' for rate in rates)}) or the largest norm of "
        f"gradients, and {way_back(trainer)}"
    )


def way_back(trainer: Trainer | None) -> str:
    """What to do when a run has broken off with weights that are no good: the end of a sentence."""
    callbacks = [] if trainer is None else trainer.checkpoint_callbacks
    kept = [each for each in callbacks if isinstance(each, ModelCheckpoint)]
    written = (
        [last_saved(each) for each in kept],
        [trainer and trainer.ckpt_path],
        [each.last_model_path for each in kept],
    )
    path = next((each for paths in written for each in paths if each), None)
    return f"go on with --ckpt_path {path}" if path else "begin anew: there is no checkpoint yet"


def _kept(module: LightningModule, trainer: Trainer | None) -> Iterator[tuple[str, Tensor]]:
    """What is trained, and what its optimizers remember of it."""
    names: dict[Tensor, str] = {parameter: name.replace(PREFIX, "") for name, parameter in module.named_parameters()}
    for parameter, name in names.items():
        if parameter.requires_grad:
            yield f"the weight {name}", parameter
    for optimizer in trainer.optimizers if trainer is not None else ():
        for trained, state in optimizer.state.items():
            for entry, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {entry} of {names.get(trained, 'a weight')}", value
