"""Lists the weights and optimizer states to check after an update, and names the checkpoint to go on from."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.lightning_internals import last_saved
from modules.sharding import PREFIX


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


def trained_state(module: LightningModule, trainer: Trainer | None) -> Iterator[tuple[str, Tensor]]:
    """What is trained, and what its optimizers remember of it; what is not trained does not change."""
    names: dict[Tensor, str] = {parameter: name.replace(PREFIX, "") for name, parameter in module.named_parameters()}
    for parameter, name in names.items():
        if parameter.requires_grad:
            yield f"the weight {name}", parameter
    for optimizer in trainer.optimizers if trainer is not None else ():
        for trained, state in optimizer.state.items():
            for entry, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {entry} of {names.get(trained, 'a weight')}", value
