"""What a sweep's runs were worth: a row a run, and a row a cell, which is the runs that differ by their seed alone."""

import csv
import io
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gigpo_lightning.sweep.run import Record, Run, State, write_whole

SEED = "seed_everything"
_EPOCH = re.compile(r"epoch_(\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        run: Its folder.
        overrides: That tell it from the others, key and value.
        record: How far it has come.
        before: Success on each split before the first update, every task counted once.
        after: The same, of the last evaluation.
        train: Success in the last epoch that was written down; None if there is none.
    """

    run: Run
    overrides: Mapping[str, str]
    record: Record
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    train: float | None = None


def row(run: Run, overrides: Mapping[str, str]) -> Row:
    """Read what a run has written down.

    Args:
        run: Its folder.
        overrides: That tell it from the others.
    """
    record = run.record
    before, after = held_out(run, record)
    return Row(run=run, overrides=overrides, record=record, before=before, after=after, train=training(run, record))


def held_out(run: Run, record: Record) -> tuple[dict[str, float], dict[str, float]]:
    """Success on each split before the first update and in the last evaluation.

    A run that was interrupted has written to several files, and may have played a game twice: the later play counts.

    Args:
        run: Its folder.
        record: What is known of it; files of another attempt are left out.
    """
    won: dict[str, dict[int, dict[str, dict[int, bool]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for path in _files(run, "evaluations.jsonl", record):
        for line in whole_lines(path):
            won[line["split"]][line["policy_version"]][line["task_id"]][line["repeat"]] = line["success"]
    before, after = {}, {}
    for split, versions in won.items():
        success = {
            version: statistics.fmean(statistics.fmean(repeats.values()) for repeats in tasks.values())
            for version, tasks in versions.items()
        }
        if 0 in success:
            before[split] = success[0]
        if last := max(success):
            after[split] = success[last]
    return before, after


def training(run: Run, record: Record) -> float | None:
    """Success of the last epoch whose episodes the run has kept; None if it keeps none.

    Args:
        run: Its folder.
        record: What is known of it; files of another attempt are left out.
    """
    epochs: dict[int, list[Path]] = defaultdict(list)
    for path in _files(run, "epoch_*.parquet", record):
        if found := _EPOCH.fullmatch(path.stem):
            epochs[int(found[1])].append(path)
    if not epochs:
        return None
    files = epochs[max(epochs)]
    newest = [path for path in files if path.parent == files[-1].parent]  # one a rank
    episodes = {}
    for path in newest:
        for each in pq.read_table(path, columns=["trajectory_id", "success"]).to_pylist():
            episodes[path, each["trajectory_id"]] = each["success"]
    return statistics.fmean(episodes.values())


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a line a run, whole or not at all.

    Args:
        path: The file.
        rows: The runs.
    """
    splits, keys = _splits(rows), _keys(rows)
    figures = [f"{split}_{when}" for split in splits for when in ("before", "after")]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["run", *keys, "state", "exit_code", *figures, "train_success", "seconds", "log"])
    for each in rows:
        success = [_exact(when.get(split)) for split in splits for when in (each.before, each.after)]
        record = each.record
        code = "" if record.exit_code is None else record.exit_code
        given = [each.overrides.get(key, "") for key in keys]
        seconds = f"{record.seconds:.1f}"
        name, train = each.run.folder.name, _exact(each.train)
        lines.writerow([name, *given, record.state, code, *success, train, seconds, each.run.log])
    write_whole(path, text.getvalue())


def runs_table(rows: Sequence[Row]) -> Table:
    """A row a run.

    Args:
        rows: The runs.
    """
    splits, keys = _splits(rows), _keys(rows)
    table = _table("", keys, ["state", *_figures(splits), "seconds"])
    for each in rows:
        success = [_percent(when.get(split)) for split in splits for when in (each.before, each.after)]
        given = [each.overrides.get(key, "") for key in keys]
        seconds = f"{each.record.seconds:.0f}"
        table.add_row(*given, each.record.state, *success, _percent(each.train), seconds)
    return table


def cells_table(rows: Sequence[Row]) -> Table | None:
    """A row a cell, mean and standard deviation over its seeds; None if no cell has two runs that have finished.

    Args:
        rows: The runs.
    """
    splits = _splits(rows)
    keys = [key for key in _keys(rows) if key != SEED]
    cells: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for each in rows:
        if each.record.state == State.FINISHED:
            cells[tuple(each.overrides.get(key, "") for key in keys)].append(each)
    if all(len(cell) < 2 for cell in cells.values()):
        return None
    table = _table("mean ± standard deviation over runs", keys, ["runs", *_figures(splits)])
    for given, cell in cells.items():
        figures = []
        for split in splits:
            figures += [
                _spread(each.before.get(split) for each in cell),
                _spread(each.after.get(split) for each in cell),
            ]
        table.add_row(*given, str(len(cell)), *figures, _spread(each.train for each in cell))
    return table


def _table(title: str, keys: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    last = [key.rpartition(".")[2] for key in keys]
    for key, short in zip(keys, last, strict=True):
        table.add_column(short if last.count(short) == 1 else key.replace(".init_args", ""), overflow="fold")
    for name in figures:
        table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
    return table


def _figures(splits: Sequence[str]) -> list[str]:
    return [*(f"{split} {when}" for split in splits for when in ("before", "after")), "train"]


def _splits(rows: Sequence[Row]) -> list[str]:
    return sorted({split for each in rows for split in (*each.before, *each.after)})


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for each in rows for key in each.overrides))


def _files(run: Run, pattern: str, record: Record) -> list[Path]:
    """A run's files of a name, those of its last version last; file times decide where there are no versions."""
    times = {path: path.stat().st_mtime for path in run.folder.rglob(pattern)}

    def belongs(path: Path) -> bool:
        if record.first_version is None or run.version(path) < 0:
            return times[path] >= record.begun - 1
        return run.version(path) >= record.first_version

    return sorted(filter(belongs, times), key=lambda path: (run.version(path), times[path], str(path)))


def whole_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of a file whose writer may have been killed."""
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _spread(values: Iterable[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.1f} %" if known else "–"
    return f"{statistics.fmean(known):.1f} ± {statistics.stdev(known):.1f} %"
