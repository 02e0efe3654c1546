"""The numbers of an evaluation as a table to read, success first."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gigpo_lightning.engines.base import HasOwnModel, TellsDetails
from gigpo_lightning.text import as_rate


def evaluation_table(results: Sequence[Mapping[str, float]], subcommand: str, engine: object = None) -> Table:
    """One line for each number that ``validate`` or ``test`` returned; what several splits have is said of each.

    Args:
        results: What was logged, one mapping a split.
        subcommand: ``validate`` or ``test``, for the table's head.
        engine: What wrote the replies; what one with a model of its own tells of it ends the table.
    """
    table = Table(f"{subcommand} metric", box=SIMPLE_HEAD)
    table.add_column("value", justify="right")
    # A name may come with the number of its split, though it has its split's name.
    values = {name.partition("/dataloader_idx_")[0]: value for result in results for name, value in result.items()}
    for name in success_first(values):
        table.add_row(name, as_number(name, values[name]))
    if isinstance(engine, HasOwnModel) and isinstance(engine, TellsDetails):
        table.add_section()
        for name, value in engine.details().items():
            table.add_row(name, value)
    return table


def success_first(names: Iterable[str]) -> list[str]:
    """Names of metrics in alphabetic order, but first those of success, the shortest before those of a kind.

    Example:
        >>> success_first(["held_out/valid/return", "held_out/valid/near/success_rate", "held_out/valid/success_rate"])
        ['held_out/valid/success_rate', 'held_out/valid/near/success_rate', 'held_out/valid/return']
    """
    return sorted(names, key=lambda name: (not name.endswith("/success_rate"), name.count("/"), name))


def as_number(name: str, value: float) -> str:
    """A rate with three decimals, and any other number with four digits.

    Example:
        >>> as_number("held_out/valid/success_rate", 13 / 30), as_number("held_out/valid/return", 13 / 3)
        ('.433', '4.333')
    """
    return as_rate(value) if name.endswith(("_rate", "_rate_kind_mean", "_rate_batch_mean")) else f"{value:.4g}"
