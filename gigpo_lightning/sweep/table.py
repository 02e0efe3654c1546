"""The table of a sweep: a row for each run, and a row for each cell, the runs that differ only by their seed."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gigpo_lightning.disk import whole_file
from gigpo_lightning.results import held_out, training
from gigpo_lightning.sweep.runs import Record, read_record
from gigpo_lightning.text import short_keys


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; success is a share of episodes, by column: ``<split> before``, ``<split> after`` and ``train``."""

    folder: Path
    overrides: Mapping[str, str]
    record: Record
    success: Mapping[str, float] = field(default_factory=dict)


def row(folder: Path, overrides: Mapping[str, str]) -> Row:
    """Read what a run has written."""
    record = read_record(folder)
    success = held_out(folder, record.first_version) | training(folder, record.first_version)
    return Row(folder=folder, overrides=overrides, record=record, success=success)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a line for each run, with keys in full and every figure."""
    columns = _columns(rows)
    figures = [*(name.replace(" ", "_") for name in columns[:-1]), "train_success"]
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["run", *rows[0].overrides, "state", "exit_code", *figures, "seconds", "log"])
        for each in rows:
            known = [f"{each.success[name]:.4f}" if name in each.success else "" for name in columns]
            end = [*known, f"{each.record.seconds:.1f}", each.folder / "log.txt"]
            lines.writerow([each.folder.name, *each.overrides.values(), each.record.state, each.record.exit_code, *end])


def runs_table(rows: Sequence[Row]) -> Table:
    """A row for each run."""
    columns = _columns(rows)
    table = _table("", list(rows[0].overrides), ["state", *columns, "seconds"])
    for each in rows:
        figures = [_percent([each], name) for name in columns]
        table.add_row(*each.overrides.values(), each.record.state, *figures, f"{each.record.seconds:.0f}")
    return table


def cells_table(rows: Sequence[Row]) -> Table | None:
    """A row for each cell, mean and standard deviation over its finished runs; None if no cell has two."""
    cells: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for each in (each for each in rows if each.record.state == "finished"):
        cells[tuple(value for key, value in each.overrides.items() if key != "seed_everything")].append(each)
    if all(len(cell) < 2 for cell in cells.values()):
        return None
    columns, keys = _columns(rows), [key for key in rows[0].overrides if key != "seed_everything"]
    table = _table("mean ± standard deviation over runs", keys, ["runs", *columns])
    for given, cell in cells.items():
        table.add_row(*given, str(len(cell)), *(_percent(cell, name) for name in columns))
    return table


def _percent(cell: Sequence[Row], name: str) -> str:
    known = [100 * each.success[name] for each in cell if name in each.success]
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{spread} %" if known else "–"


def _table(title: str, keys: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    for key in short_keys(keys):
        table.add_column(key.replace(".init_args", ""), overflow="fold")
    for name in figures:
        table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
    return table


def _columns(rows: Sequence[Row]) -> list[str]:
    splits = sorted({name.rpartition(" ")[0] for each in rows for name in each.success if name != "train"})
    return [*(f"{split} {when}" for split in splits for when in ("before", "after")), "train"]
