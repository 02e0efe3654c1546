"""The figures of the comparison: curves, anchor groups, and where an iteration's time goes."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mode
from typing import Any

import matplotlib
import numpy as np
from cells import Cell, Outcomes
from collect import read_rows
from numpy.typing import NDArray
from two_way import two_way_bootstrap

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_logger = logging.getLogger(__name__)

COLOURS = {"GRPO": "#d95f02", "GiGPO": "#1b6ca8", "RLOO": "#6b6b6b"}
WIDTH = 10  # of the moving mean, in iterations


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
        std_words = "std" if std == "True" else "no std"
        axis.set_title(f"{statistics} statistics, {std_words}, {len(shared)} seeds", fontsize=9)
        axis.set_xlabel("iteration")
        axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel(f"success on training games,\nmean of {WIDTH} iterations")
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
    training.set(title=f"training games, mean of {WIDTH} iterations", xlabel="iteration", ylabel="success")
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
    names = ("rollout", "credit", "update", "sync", "iteration")
    seconds = {name: float(np.mean([float(row[f"{name}_seconds"]) for row in rows])) for name in names}
    whole = seconds.pop("iteration")
    seconds["evaluation, rest"] = whole - sum(seconds.values())
    figure, axis = plt.subplots(figsize=(5, 2))
    axis.barh(list(seconds)[::-1], list(seconds.values())[::-1], color="#1b6ca8")
    for place, value in enumerate(list(seconds.values())[::-1]):
        axis.text(value, place, f" {value:.3f} s, {value / whole:.2%}", va="center", fontsize=8)
    axis.set(xlabel=f"seconds of an iteration's {whole:.1f}", xlim=(0, 1.35 * max(seconds.values())))
    _save(figure, folder / "time.svg")
    return seconds


def _moving_mean(values: NDArray[np.float64], width: int = WIDTH) -> NDArray[np.float64]:
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
