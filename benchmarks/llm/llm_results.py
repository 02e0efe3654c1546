"""Writes down what the runs of train.py did: results.csv and games.csv.gz, and comparison.csv with its games.

    python benchmarks/llm/llm_results.py runs/llm [--output benchmarks/llm]

The files are written into the folder of the runs, or into another. results.csv has a row for each run of GiGPO:
minutes of all its parts, the largest memory, and the first and the last evaluation's share of held-out games won, with
the 95 % interval of the gain, a paired bootstrap over games. games.csv.gz has a row for each game and evaluation; all
shares and intervals can be computed from it. comparison.csv and comparison_games.csv.gz have the same form, and the
runs of every method; there are none as long as GiGPO is alone. In another folder, runs that are in the files already
stay there; one of the same method and seed takes the place of the old one. The last lines say by how much the methods
differ.
"""

import argparse
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import sem, t

from benchmarks.alfworld_tiny.collect import read_rows, write_rows
from gigpo_lightning.confidence import paired_bootstrap
from gigpo_lightning.results import evaluations
from gigpo_lightning.text import count

FILES = {"results.csv": "games.csv.gz", "comparison.csv": "comparison_games.csv.gz"}
"""The tables, each with the file of its games."""
METHODS = {"gigpo": (), "grpo": (Path(__file__).with_name("grpo.yaml"),)}
"""The methods, each with the files that it has on top of configs/alfworld/llm_cpu.yaml."""
STANDARD = "gigpo"
"""The method of ``make train-llm``."""
GAME = ("task_id", "repeat", "success", "steps")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run did.

    Attributes:
        method: ``gigpo`` or another of train.py's.
        seed: Of everything.
        minutes: Wall clock, of all parts from fetching the model to the last evaluation.
        peak_gib: The largest memory of a part, in GiB.
        start: Held-out episodes before the first update, by task and repeat.
        end: Those after the last.
    """

    method: str
    seed: int
    minutes: float
    peak_gib: float
    start: dict[tuple[str, int], dict[str, Any]]
    end: dict[tuple[str, int], dict[str, Any]]

    @property
    def games(self) -> int:
        """Held-out games that both evaluations played."""
        return len(self._both)

    @property
    def success_start(self) -> float:
        """Share of them that was won before."""
        return sum(self.start[game]["success"] for game in self._both) / self.games

    @property
    def success_end(self) -> float:
        """Share of them that was won after."""
        return sum(self.end[game]["success"] for game in self._both) / self.games

    @property
    def gain(self) -> float:
        """What training was worth."""
        return self._interval[0]

    @property
    def low(self) -> float:
        """The lower end of the gain's interval."""
        return self._interval[1]

    @property
    def high(self) -> float:
        """The upper end of the gain's interval."""
        return self._interval[2]

    @cached_property
    def _both(self) -> list[tuple[str, int]]:
        return sorted(self.start.keys() & self.end.keys())

    @cached_property
    def _interval(self) -> tuple[float, float, float]:
        before, after = ([float(side[game]["success"]) for game in self._both] for side in (self.start, self.end))
        return paired_bootstrap(before, after)


def read_run(training: Path, imitation: Path) -> Run:
    """A run from its folders.

    Raises:
        ValueError: If it has not ended, or was not evaluated before training and after it.
    """
    method, _, seed = training.name.rpartition("_")
    played = [episodes for _, episodes in sorted(evaluations(training).items())]  # of one split
    parts = parts_of(imitation) + parts_of(training)
    if not parts_of(training) or parts[-1]["exit_code"]:
        raise ValueError(f"{training} must hold a run that has ended; it has not, as its parts.jsonl says")
    if not parts_of(imitation):
        raise ValueError(f"{training} needs {imitation}, the imitation that it began with; there is none")
    if len(played) != 2:
        raise ValueError(
            f"{training} must hold two evaluations of one split, before training and after it, got {len(played)}"
        )
    return Run(
        method=method,
        seed=int(seed),
        minutes=round(sum(line["seconds"] for line in parts) / 60, 1),
        peak_gib=max(line["peak_gib"] for line in parts),
        start=played[0],
        end=played[-1],
    )


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """What took part in a run: the lines of its ``parts.jsonl`` that are whole."""
    file = folder / "parts.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # its writer was killed
            continue
    return found


def read_runs(folder: Path) -> list[Run]:
    """Every run below a folder that has ended.

    Raises:
        ValueError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"the folder of runs must be there, got {folder}")
    runs = []
    for training in sorted(folder.iterdir()):
        named = re.fullmatch(rf"(?:{'|'.join(METHODS)})_(\d+)", training.name)
        if named is None or not training.is_dir():
            continue
        try:
            runs.append(read_run(training, folder / f"imitation_{named[1]}"))
        except ValueError as error:
            _logger.info("left out: %s", error)
    return runs


def read_collected(folder: Path, results: str, games: str) -> list[Run]:
    """The runs of two files that ``write`` has written; none where there are none."""
    if not (folder / results).exists():
        return []
    sides: dict[tuple[str, str, str], dict[tuple[str, int], dict[str, Any]]] = {}
    for row in read_rows(folder / games):
        side = sides.setdefault((row["method"], row["seed"], row["when"]), {})
        episode = {"success": row["success"] == "True", "steps": int(row["steps"])}
        side[row["task_id"], int(row["repeat"])] = episode | {"task_id": row["task_id"], "repeat": int(row["repeat"])}
    return [
        Run(
            method=row["method"],
            seed=int(row["seed"]),
            minutes=float(row["minutes"]),
            peak_gib=float(row["peak_gib"]),
            start=sides[row["method"], row["seed"], "start"],
            end=sides[row["method"], row["seed"], "end"],
        )
        for row in read_rows(folder / results)
    ]


def compared(runs: Iterable[Run]) -> list[str]:
    """What ``STANDARD`` won after training more than each other method: a line for each seed, and one of all seeds.

    Pairs are of one seed and game. Intervals are of 95 %: of one seed over games, by a bootstrap, and of several over
    seeds, by Student's t. A bootstrap of three seeds is too narrow.

    Raises:
        ValueError: If two runs played other held-out games.
    """
    won: dict[str, dict[int, NDArray[np.float64]]] = {}
    panel: list[tuple[str, int]] = []
    for run in runs:
        panel = panel or sorted(run.end)
        if sorted(run.end) != panel:
            raise ValueError(
                f"all runs must have played the same held-out games; {run.method}_{run.seed} played others"
            )
        won.setdefault(run.method, {})[run.seed] = np.array([run.end[game]["success"] for game in panel], np.float64)
    standard = won.pop(STANDARD, {})
    lines = []
    for method, seeds in sorted(won.items()):
        both = sorted(standard.keys() & seeds.keys())
        beyond = np.array([standard[seed] - seeds[seed] for seed in both])
        for seed, games in zip(both, beyond.tolist(), strict=True):
            lines.append(_line(method, f"seed {seed}", *paired_bootstrap([0.0] * len(games), games)))
        if len(both) > 1:
            means = beyond.mean(axis=1)
            mean, around = float(means.mean()), float(t.ppf(0.975, len(both) - 1) * sem(means))
            lines.append(_line(method, f"{len(both)} seeds", mean, mean - around, mean + around))
    return lines


def _line(method: str, which: str, mean: float, low: float, high: float) -> str:
    return f"{STANDARD} ahead of {method}, {which}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def row_of(run: Run) -> dict[str, Any]:
    """A run's row of results.csv."""
    rates = ("success_start", "success_end", "low", "high")
    return {
        **{name: getattr(run, name) for name in ("method", "seed", "minutes", "peak_gib", "games")},
        **{name: round(getattr(run, name), 4) for name in rates},
    }


def write(runs: Iterable[Run], folder: Path, results: str, games: str) -> None:
    """Write two files."""
    runs = sorted(runs, key=lambda run: (run.method, run.seed))
    played = [
        {"method": run.method, "seed": run.seed, "when": when} | {name: episode[name] for name in GAME}
        for run in runs
        for when, side in (("start", run.start), ("end", run.end))
        for _, episode in sorted(side.items())
    ]
    write_rows(folder / games, played)
    write_rows(folder / results, [row_of(run) for run in runs])
    _logger.info("%s: %s", folder / results, count(len(runs), "run"))


def collect(folder: Path, output: Path) -> None:
    """Write down the runs below a folder; in another folder, beside those that are written down there.

    Raises:
        ValueError: If there is no folder of runs.
    """
    found = read_runs(folder)
    output.mkdir(parents=True, exist_ok=True)
    for results, games in FILES.items():
        new = found if results == "comparison.csv" else [run for run in found if run.method == STANDARD]
        old = [] if output.samefile(folder) else read_collected(output, results, games)
        runs = {(run.method, run.seed): run for run in (*old, *new)}
        if runs and (results == "results.csv" or {run.method for run in runs.values()} - {STANDARD}):
            write(runs.values(), output, results, games)


def main(words: Sequence[str] | None = None) -> None:
    """Collect the runs below the folder that is named."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="default: the folder")
    arguments = parser.parse_args(words)
    output = arguments.output or arguments.folder
    try:
        collect(arguments.folder, output)
        for line in compared(read_collected(output, "comparison.csv", FILES["comparison.csv"])):
            _logger.info("%s", line)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
