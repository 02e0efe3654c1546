"""Shared parts of the callbacks that log an epoch's experience."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer

from gigpo_lightning.experience import Experience

Method = Literal[
    "add_scalar", "add_text", "add_image", "add_histogram", "add_custom_scalars", "log_image", "log_table", "log_text"
]
"""What a logger can show beside numbers: names of ``SummaryWriter`` and other writers, and of ``WandbLogger``."""


class ExperienceCallback(Callback):
    """Is shown each epoch's experience before its first update, and logs it at the epoch's end."""

    experience: Experience | None = None
    """This rank's, of the current epoch; None if a run makes none."""

    def on_experience(self, experience: Experience) -> None:
        """Remember it; the DataModule calls this on every rank."""
        self.experience = experience


def logger_method(logger: Any, method: Method) -> Callable[..., object] | None:
    """A logger's method that shows something; ``log_…`` is its own, and ``add_…`` its experiment's."""
    owner = logger if method.startswith("log_") else getattr(logger, "experiment", None)
    found = getattr(owner, method, None)
    return found if callable(found) else None


def logger_methods(loggers: Iterable[Any], method: Method) -> list[Callable[..., object]]:
    """The method of every logger that has it: what a logger cannot show is skipped."""
    return [found for logger in loggers if (found := logger_method(logger, method)) is not None]


def show_first(trainer: Trainer, name: str, value: float) -> None:
    """Show a share of successes where TensorBoard begins: it sorts groups by their names, digits before letters."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if (add_scalar := logger_method(logger, "add_scalar")) is not None:
            add_scalar(f"1_success/{name}", value, trainer.global_step)
            logger.save()  # a run that is killed and goes on does not play again what came before its checkpoint
