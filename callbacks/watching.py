"""Shared parts of the callbacks that log an epoch's experience."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from lightning.pytorch import Callback

from gigpo_lightning.experience import Experience

Method = Literal["add_text", "add_figure", "add_histogram", "add_custom_scalars"]
"""What a logger can show beside numbers; names of ``SummaryWriter``, which other writers have as well."""


class ExperienceCallback(Callback):
    """Is shown each epoch's experience before its first update, and logs it at the epoch's end."""

    experience: Experience | None = None
    """This rank's, of the current epoch; None if a run makes none."""

    def on_experience(self, experience: Experience) -> None:
        """Remember it; the DataModule calls this on every rank."""
        self.experience = experience


def logger_methods(loggers: Iterable[Any], method: Method) -> list[Callable[..., object]]:
    """The method of every logger's experiment that has it: what a logger cannot show is skipped."""
    found = (getattr(getattr(logger, "experiment", None), method, None) for logger in loggers)
    return [each for each in found if callable(each)]
