"""Says what the comparison came to, from the files that collect.py wrote: tables, effects with intervals, figures.

    python benchmarks/alfworld_tiny/report.py

Every number is over seeds and held-out games; every interval is a 95 % bootstrap over both. Methods are compared seed
by seed and game by game: runs of one seed met the same tasks in the same order, and were evaluated with the same noise.
"""

import argparse
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mode
from typing import Any

import matplotlib
import numpy as np
from collect import read_rows
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import sem, t

from gigpo_lightning.bootstrap import paired_bootstrap, two_way_bootstrap

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_logger = logging.getLogger(__name__)

COLOURS = {"GRPO": "#d95f02", "GiGPO": "#1b6ca8", "RLOO": "#6b6b6b"}
CHOSEN = "the chosen GiGPO - the chosen GRPO"
_EXAM = -1  # stands for the exam where others are numbers of iterations


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """A setting, as results.csv names it."""

    method: str
    statistics: str
    std: str
    anchor: str
    omega: str
    episode_weight: str
    discount: str
    learning_rate: str

    def label(self) -> str:
        """The setting in a line."""
        parts = [self.method, self.statistics, "std" if self.std == "True" else "no std"]
        parts += [self.step_level()] if self.method == "GiGPO" else []
        return ", ".join([*parts, f"lr {self.learning_rate}"])

    def step_level(self) -> str:
        """What GiGPO adds to GRPO."""
        parts = [f"{self.anchor} anchors", f"ω {self.omega}", f"γ {self.discount}"]
        return ", ".join(parts + (["no A_E"] if float(self.episode_weight) == 0 else []))


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What a cell's runs did.

    Attributes:
        held_out: By the number of iterations before it, the success of an evaluation, seeds x games.
        exam: Success in the games of exam.py, seeds x games; None if a run of the cell has not played them.
        auc: Mean training success, one value a seed.
        seeds: Their numbers.
        selected: Whether the cell is its method's, by its training games.
        runs: Numbers of its runs.
    """

    held_out: Mapping[int, NDArray[np.float64]]
    exam: NDArray[np.float64] | None
    auc: NDArray[np.float64]
    seeds: tuple[int, ...]
    selected: bool
    runs: tuple[str, ...]

    @property
    def start(self) -> NDArray[np.float64]:
        """Success before training, seeds x games."""
        return self.held_out[min(self.held_out)]

    @property
    def end(self) -> NDArray[np.float64]:
        """Success after it, in the same order."""
        return self.held_out[max(self.held_out)]


def outcomes(folder: Path) -> dict[Cell, Outcomes]:
    """What each cell's runs did, from results.csv and games.csv.gz."""
    won: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read_rows(folder / "games.csv.gz"):
        done = _EXAM if row["split"] == "exam" else int(row["iterations"])
        won[row["run"]][done][row["task_id"]].append(float(row["success"] == "True"))
    by_cell: dict[Cell, list[dict[str, str]]] = defaultdict(list)
    for row in read_rows(folder / "results.csv"):
        if not won[row["run"]]:
            continue  # it only trained
        by_cell[Cell(**{name: row[name] for name in Cell.__dataclass_fields__})].append(row)
    found = {}
    for cell, rows in sorted(by_cell.items()):
        rows = sorted(rows, key=lambda row: int(row["seed"]))
        held_out = {}
        for done in sorted(set.intersection(*(set(won[row["run"]]) for row in rows))):
            by_game = [won[row["run"]][done] for row in rows]
            games = sorted(set.intersection(*(set(each) for each in by_game)))
            held_out[done] = np.array([[float(np.mean(each[game])) for game in games] for each in by_game])
        found[cell] = Outcomes(
            exam=held_out.pop(_EXAM, None),
            held_out=held_out,
            auc=np.array([float(row["auc"]) for row in rows]),
            seeds=tuple(int(row["seed"]) for row in rows),
            selected=rows[0]["selected_on_train"] == "True",
            runs=tuple(row["run"] for row in rows),
        )
    return found


def difference(pairs: Sequence[tuple[Outcomes, Outcomes]]) -> dict[str, tuple[float, float, float] | None]:
    """What the first of a pair is better by, on the seeds that all have: mean over the pairs, and its interval's ends.

    ``end`` is over the games of the last evaluation, ``exam`` over those of exam.py, ``auc`` over all of the training
    games. With so few seeds a bootstrap over them alone is too narrow: ``auc t`` has the interval of Student's t. One
    seed has no interval over seeds: there ``end`` and ``exam`` are over games alone.
    """
    seeds = shared_seeds(pairs)

    def mean(values: Callable[[Outcomes], NDArray[np.float64]]) -> NDArray[np.float64]:
        both = ([values(each)[[each.seeds.index(seed) for seed in seeds]] for each in pair] for pair in pairs)
        return np.mean([ours - theirs for ours, theirs in both], axis=0)

    auc = mean(lambda each: each.auc)
    around = float(t.ppf(0.975, len(auc) - 1) * sem(auc)) if len(auc) > 1 else np.nan
    examined = all(each.exam is not None for pair in pairs for each in pair)
    return {
        "end": two_way_bootstrap(mean(lambda each: each.end)),
        "exam": two_way_bootstrap(mean(lambda each: each.exam)) if examined else None,
        "auc": paired_bootstrap([0.0] * len(auc), auc.tolist()) if len(auc) > 1 else (auc[0], np.nan, np.nan),
        "auc t": (float(auc.mean()), float(auc.mean()) - around, float(auc.mean()) + around),
    }


def shared_seeds(pairs: Iterable[tuple[Outcomes, Outcomes]]) -> list[int]:
    """The seeds that all have."""
    return sorted(set.intersection(*(set(each.seeds) for pair in pairs for each in pair)))


def comparisons(found: dict[Cell, Outcomes]) -> dict[str, list[tuple[Cell, Cell]]]:
    """What is compared, by what it is called: a pair of cells, or several that differ in the same thing.

    GiGPO against GRPO where only the step level differs; std and step statistics against none and those over
    trajectories where nothing else differs; each method's chosen cell against the other's.
    """
    single: dict[str, list[tuple[Cell, Cell]]] = {}
    several: dict[str, list[tuple[Cell, Cell]]] = defaultdict(list)
    for ours in found:
        for theirs in found:
            same = all(getattr(ours, name) == getattr(theirs, name) for name in ("statistics", "std", "learning_rate"))
            if (ours.method, theirs.method) == ("GiGPO", "GRPO") and same:
                single[f"{ours.label()} - GRPO"] = [(ours, theirs)]
                several[f"GiGPO, {ours.step_level()} - GRPO"].append((ours, theirs))
    for name, ours_is, theirs_is in (("std", "True", "False"), ("statistics", "step", "trajectory")):
        words = ("std", "no std") if name == "std" else ("step statistics", "trajectory statistics")
        for ours in found:
            theirs = replace(ours, **{name: theirs_is})
            if getattr(ours, name) == ours_is and theirs in found:
                single[f"{ours.label()} - {words[1]}"] = [(ours, theirs)]
                several[" - ".join(words)].append((ours, theirs))
    means = {f"mean of {len(pairs)}: {name}": pairs for name, pairs in several.items() if len(pairs) > 1}
    chosen = {cell.method: cell for cell, each in found.items() if each.selected}
    both = [(chosen["GiGPO"], chosen["GRPO"])] if {"GiGPO", "GRPO"} <= chosen.keys() else []
    return single | means | ({CHOSEN: both} if both else {})


def tables(found: dict[Cell, Outcomes]) -> tuple[Table, Table]:
    """A row a cell, and a row a comparison."""
    cells = Table(title="Success, with 95 % intervals over seeds and games", box=MARKDOWN)
    for column in ("cell", "seeds", "before", "after", "after, fresh games", "training, mean", "chosen"):
        cells.add_column(column)
    for cell, each in found.items():
        ends = (_shown(two_way_bootstrap(games) if games is not None else None, "") for games in (each.end, each.exam))
        chosen = "yes" if each.selected else ""
        row = (str(len(each.seeds)), f"{each.start.mean():.3f}", *ends, f"{each.auc.mean():.3f}", chosen)
        cells.add_row(cell.label(), *row)
    effects = Table(title="Differences, paired by seed and game, with 95 % intervals over both", box=MARKDOWN)
    for column in ("comparison", "seeds", "after", "after, fresh games", "training, mean", "the same, by Student's t"):
        effects.add_column(column)
    for name, cells_compared in comparisons(found).items():
        pairs = [(found[ours], found[theirs]) for ours, theirs in cells_compared]
        if seeds := shared_seeds(pairs):
            effects.add_row(name, str(len(seeds)), *(_shown(each, "+") for each in difference(pairs).values()))
    return cells, effects


def write_tables(found: dict[Cell, Outcomes], path: Path) -> None:
    """The tables as a page."""
    parts = [
        "# All cells of the comparison",
        "Written by `report.py`; [what they are](README.md). Where there is one seed, intervals are over games alone.",
    ]
    for table in tables(found):
        parts.append(f"## {table.title}")
        table.title = None
        page = Console(file=io.StringIO(), width=400)
        page.print(table)
        parts.append("\n".join(line.rstrip() for line in page.file.getvalue().strip().splitlines()))
    path.write_text("\n\n".join(parts) + "\n")
    _logger.info("written: %s", path)


def _shown(measured: tuple[float, float, float] | None, sign: str) -> str:
    if measured is None:
        return ""
    mean, low, high = (f"{each:{sign}.3f}" for each in measured)
    return f"{mean} [{low}, {high}]" if np.isfinite(measured[1]) else mean


def read_curves(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Success on the training games of every iteration, smoothed, by the number of the run."""
    curves: dict[str, list[float]] = defaultdict(list)
    for row in read_rows(folder / "curves.csv.gz"):
        curves[row["run"]].append(float(row["success"]))
    return {run: _moving_mean(np.array(values)) for run, values in curves.items()}


def draw_curves(folder: Path, found: dict[Cell, Outcomes]) -> None:
    """Training success over the iterations: a panel for each statistics and std, a line a cell, each seed thin.

    Seeds meet different tasks, so a panel has those alone that all its cells have.
    """
    curves = read_curves(folder)
    panels = sorted({(cell.statistics, cell.std) for cell in found})
    shared_rate = mode(cell.learning_rate for cell in found)
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3), sharey=True, squeeze=False)
    for axis, (statistics, std) in zip(axes[0], panels, strict=True):
        drawn = {}
        for cell, each in found.items():
            # Beside GRPO the paper's GiGPO; the other weights, discounts, anchors and rates are in the table.
            paper = (cell.anchor, float(cell.omega), float(cell.episode_weight)) == ("observation", 1.0, 1.0)
            here = (cell.statistics, cell.std, cell.learning_rate) == (statistics, std, shared_rate)
            if here and (cell.method != "GiGPO" or paper):
                drawn[cell.method] = dict(zip(each.seeds, each.runs, strict=True))
        shared = sorted(set.intersection(*map(set, drawn.values()))) if drawn else []
        for method, runs in drawn.items() if shared else ():
            _draw_cell(axis, np.array([curves[runs[seed]] for seed in shared]), method)
        axis.set_title(f"{statistics} statistics, {'std' if std == 'True' else 'no std'}", fontsize=9)
        axis.set_xlabel("iteration")
        axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel("success on training games")
    _save(figure, folder / "curves.svg")


def draw_chosen(folder: Path, found: dict[Cell, Outcomes], path: Path) -> None:
    """Each method's chosen cell: over its training games, and on held-out games with 95 % intervals."""
    curves = read_curves(folder)
    figure, (training, held_out) = plt.subplots(1, 2, figsize=(8, 3), sharey=True, width_ratios=(3, 2))
    for place, (cell, each) in enumerate((cell, each) for cell, each in found.items() if each.selected):
        _draw_cell(training, np.array([curves[run] for run in each.runs]), cell.method)
        after = max(each.held_out)
        _draw_intervals(held_out, cell.method, {done + place: games for done, games in each.held_out.items()}, "o-")
        if each.exam is not None:
            _draw_intervals(held_out, f"{cell.method}, fresh games", {after * 1.1 + place: each.exam}, "D")
    training.set(title="training games", xlabel="iteration", ylabel="success")
    held_out.set(title="held-out games, 95 % intervals", xlabel="iteration")
    for axis, free in ((training, "lower right"), (held_out, "upper left")):
        axis.title.set_fontsize(9)
        axis.legend(frameon=False, fontsize=8, loc=free)
    _save(figure, path)


def _draw_intervals(axis: Axes, label: str, games: Mapping[float, NDArray[np.float64]], marks: str) -> None:
    measured = np.array([two_way_bootstrap(success) for success in games.values()])
    around = np.abs(measured[:, 1:].T - measured[:, 0])
    colour = COLOURS.get(label.split(",")[0], "black")
    axis.errorbar(list(games), measured[:, 0], yerr=around, fmt=marks, color=colour, capsize=3, label=label)


def _draw_cell(axis: Axes, curves: NDArray[np.float64], method: str) -> None:
    colour = COLOURS.get(method, "black")
    axis.plot(curves.T, color=colour, alpha=0.25, linewidth=0.7)
    axis.plot(curves.mean(axis=0), color=colour, linewidth=2, label=method)


def draw_groups(folder: Path) -> None:
    """Shares of the steps by the size of their anchor group, over the iterations, all runs together."""
    rows = read_rows(folder / "groups.csv")
    sizes = [name for name in rows[0] if name not in ("run", "iteration")]
    by_iteration: dict[int, list[list[float]]] = defaultdict(list)
    for row in rows:
        by_iteration[int(row["iteration"])].append([float(row[name]) for name in sizes])
    iterations = sorted(by_iteration)
    shares = np.array([np.mean(by_iteration[iteration], axis=0) for iteration in iterations])
    figure, axis = plt.subplots(figsize=(5, 3))
    axis.stackplot(
        iterations, shares.T, labels=sizes, colors=plt.get_cmap("viridis")(np.linspace(0.1, 0.95, len(sizes)))
    )
    axis.set(xlabel="iteration", ylabel="share of the steps", ylim=(0, 1), xlim=(iterations[0], iterations[-1]))
    axis.legend(title="anchor group of", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, folder / "groups.svg")


def draw_times(folder: Path) -> dict[str, float]:
    """Mean seconds of an iteration by component; the first iteration, which starts the engine, is left out."""
    rows = [row for row in read_rows(folder / "curves.csv.gz") if row["iteration"] != "0"]
    names = ("rollout", "credit", "update", "sync")
    seconds = {name: float(np.mean([float(row[f"{name}_seconds"]) for row in rows])) for name in names}
    figure, axis = plt.subplots(figsize=(5, 1.8))
    axis.barh(list(seconds)[::-1], list(seconds.values())[::-1], color="#1b6ca8")
    for place, value in enumerate(list(seconds.values())[::-1]):
        axis.text(value, place, f" {value:.3f} s, {value / sum(seconds.values()):.2%}", va="center", fontsize=8)
    axis.set(xlabel="seconds of an iteration", xlim=(0, 1.35 * max(seconds.values())))
    _save(figure, folder / "time.svg")
    return seconds


def _moving_mean(values: NDArray[np.float64], width: int = 10) -> NDArray[np.float64]:
    """Means over the last ``width`` values, of fewer at the beginning: an iteration's sixteen tasks differ too much."""
    sums = np.cumsum(np.concatenate([np.zeros(width), values]))
    counts = np.minimum(np.arange(1, len(values) + 1), width)
    moving: NDArray[np.float64] = (sums[width:] - sums[:-width]) / counts
    return moving


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    _logger.info("drawn: %s", path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    matplotlib.rcParams.update({"svg.hashsalt": "alfworld_tiny", "axes.spines.top": False, "axes.spines.right": False})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args(arguments).folder
    found = outcomes(folder)
    console = Console(width=200)
    for table in tables(found):
        console.print(table)
    write_tables(found, folder / "tables.md")
    draw_curves(folder, found)
    draw_chosen(folder, found, folder / "chosen.svg")
    draw_groups(folder)
    seconds = draw_times(folder)
    _logger.info("credit's share of an iteration: %.3f %%", 100 * seconds["credit"] / sum(seconds.values()))


if __name__ == "__main__":
    main()
