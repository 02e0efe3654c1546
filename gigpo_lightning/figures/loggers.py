"""What a logger can show beside numbers."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

Method = Literal["add_text", "add_figure", "add_histogram", "add_custom_scalars"]
"""Names of ``SummaryWriter``, which other writers have as well."""


def logger_methods(loggers: Iterable[Any], method: Method) -> list[Callable[..., object]]:
    """The method of every logger's experiment that has it: what a logger cannot show is skipped."""
    found = (getattr(getattr(logger, "experiment", None), method, None) for logger in loggers)
    return [each for each in found if callable(each)]
