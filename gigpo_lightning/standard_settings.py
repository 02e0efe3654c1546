"""What the command line adds to a run's configuration, so that ``config.yaml`` says all that a run is made of."""

import inspect
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from callbacks import Preemption
from modules import AtomicCheckpointIO

_EVERY_EPOCH = Namespace(
    class_path="lightning.pytorch.callbacks.ModelCheckpoint",
    init_args=Namespace(save_last="link", save_on_train_epoch_end=True, save_top_k=1, every_n_epochs=1),
)


def add_standard(settings: Namespace, subcommand: str) -> None:
    """Add what a run has unless it names its own: the module's callbacks, checkpoints, and a good end on SIGTERM.

    ``settings`` are the subcommand's, with ``trainer`` and ``model``; only ``fit`` writes checkpoints.
    """
    trainer, module = settings.trainer, _class_of(settings.model)
    callbacks = _as_list(trainer.get("callbacks"))
    named = [_class_of(each) for each in callbacks]
    own: list[type] = module.missing_callbacks(named) if hasattr(module, "missing_callbacks") else []
    callbacks += [_settings(kind) for kind in own]
    if not any(issubclass(each, Preemption) for each in named):
        callbacks.append(_settings(Preemption))
    keeps = subcommand == "fit" and trainer.get("enable_checkpointing") is not False and not trainer.get("barebones")
    if keeps and not any(issubclass(each, Checkpoint) for each in named):
        callbacks.append(_EVERY_EPOCH.clone())
    plugins = _as_list(trainer.get("plugins"))
    if not any(issubclass(_class_of(each), CheckpointIO) for each in plugins):
        plugins.append(_settings(AtomicCheckpointIO))
    trainer["callbacks"], trainer["plugins"] = callbacks, plugins


def _settings(kind: type) -> Namespace:
    """A class and its defaults, as a configuration names them."""
    parameters = inspect.signature(kind).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    path = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return Namespace(class_path=path, init_args=Namespace(defaults)) if defaults else Namespace(class_path=path)


def _class_of(entry: Any) -> type:
    """The class that an entry of a configuration names; of an object its own, and of a function none in particular."""
    path = entry.get("class_path") if isinstance(entry, Namespace | dict) else None
    found = type(entry) if path is None else locate(path)
    return found if isinstance(found, type) else object


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
