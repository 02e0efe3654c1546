"""The table of a sweep: a row for each run, and a row for each cell, the runs that differ only by their seed."""

import csv
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gigpo_lightning.disk import whole_file
from gigpo_lightning.sweep.runs import Record, read_record, version


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; success is a share of episodes, by column: ``<split> before``, ``<split> after`` and ``train``."""

    folder: Path
    overrides: Mapping[str, str]
    record: Record
    success: Mapping[str, float] = field(default_factory=dict)


def row(folder: Path, overrides: Mapping[str, str]) -> Row:
    """Read what a run has written."""
    success = held_out(folder) | training(folder)
    return Row(folder=folder, overrides=overrides, record=read_record(folder), success=success)


def held_out(folder: Path) -> dict[str, float]:
    """Success on each split before the first update and in the last evaluation; every task has the same weight.

    Of a game that an interrupted run has played twice, the later play counts.
    """
    won: dict[tuple[str, int], dict[str, dict[int, bool]]] = defaultdict(lambda: defaultdict(dict))
    for line in (line for path in _files(folder, "evaluations.jsonl") for line in whole_lines(path)):
        won[line["split"], line["policy_version"]][line["task_id"]][line["repeat"]] = line["success"]
    success = {}
    for (split, number), tasks in sorted(won.items()):  # the last evaluation stays
        mean = statistics.fmean(statistics.fmean(repeats.values()) for repeats in tasks.values())
        success[f"{split} {'after' if number else 'before'}"] = mean
    return success


def training(folder: Path) -> dict[str, float]:
    """Success of the last epoch whose episodes the run has kept, as ``train``; empty if it keeps none."""
    epochs = defaultdict(list)
    for path in _files(folder, "epoch_*.parquet"):
        if found := re.fullmatch(r"epoch_(\d+)(?:\.\d+)?", path.stem):
            epochs[int(found[1])].append(path)
    episodes: dict[tuple[Path, int], bool] = {}
    for path in epochs[max(epochs)] if epochs else ():
        if path.parent == epochs[max(epochs)][-1].parent:  # the latest version's, one file for each rank
            table = pq.read_table(path, columns=["trajectory_id", "success"]).to_pylist()
            episodes |= {(path, each["trajectory_id"]): each["success"] for each in table}
    return {"train": statistics.fmean(episodes.values())} if episodes else {}


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
        known = [f"{100 * each.success[name]:.1f} %" if name in each.success else "–" for name in columns]
        table.add_row(*each.overrides.values(), each.record.state, *known, f"{each.record.seconds:.0f}")
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
        figures = []
        for known in ([100 * each.success[name] for each in cell if name in each.success] for name in columns):
            spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
            figures.append(f"{statistics.fmean(known):.1f}{spread} %" if known else "–")
        table.add_row(*given, str(len(cell)), *figures)
    return table


def _table(title: str, keys: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    last = [key.rpartition(".")[2] for key in keys]
    for key, short in zip(keys, last, strict=True):
        table.add_column(short if last.count(short) == 1 else key.replace(".init_args", ""), overflow="fold")
    for name in figures:
        table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
    return table


def _columns(rows: Sequence[Row]) -> list[str]:
    splits = sorted({name.rpartition(" ")[0] for each in rows for name in each.success if name != "train"})
    return [*(f"{split} {when}" for split in splits for when in ("before", "after")), "train"]


def _files(folder: Path, pattern: str) -> list[Path]:
    """A run's files with a name, the latest version's last, without those of an earlier attempt."""
    found, first = [(version(path, folder), path) for path in folder.rglob(pattern)], read_record(folder).first_version
    return [path for number, path in sorted(found) if number < 0 or number >= first]


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file whose writer may have been killed."""
    return (json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))
