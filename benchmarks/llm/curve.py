"""Draws what the runs of train.py learnt: curves.csv and curve.svg.

    python benchmarks/llm/curve.py runs/llm [--output benchmarks/llm]

The files are written into the folder of the runs, or into another. curves.csv has a row for each iteration of a run,
with the success on its training games. In another folder, runs that are in it already stay there; one of the same
method and seed takes the place of the old one. The figure's left half shows them, its right half the held-out games of
results.csv and comparison.csv. Call llm_results.py first.
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from llm_results import FILES, read_collected, read_runs
from numpy.typing import NDArray

from benchmarks.alfworld_tiny.collect import curves_of, read_rows, write_rows
from gigpo_lightning.results import version
from gigpo_lightning.text import count

matplotlib.use("svg")
from matplotlib import pyplot as plt

COLOURS = {"grpo": "#d95f02", "gigpo": "#1b6ca8"}
NAMES = {"grpo": "GRPO", "gigpo": "GiGPO"}
APART = 0.12  # two methods' intervals, of the way from before to after
WIDTH = 5  # of the moving mean, in iterations

Curves = dict[tuple[str, int], dict[int, float]]
"""Success on training games by method and seed, and by iteration."""

_logger = logging.getLogger(__name__)


def curve_of(training: Path) -> dict[int, float]:
    """Success on the training games of each iteration."""
    versions = sorted((training / "lightning_logs").iterdir(), key=lambda path: version(path, training))
    return dict(enumerate(curves_of(versions)["success"]))


def read_curves(file: Path) -> Curves:
    """The curves that are published; none where there are none."""
    curves: Curves = defaultdict(dict)
    for row in read_rows(file) if file.exists() else ():
        curves[row["method"], int(row["seed"])][int(row["iteration"])] = float(row["success"])
    return dict(curves)


def write_curves(curves: Curves, file: Path) -> None:
    """Write them, a row an iteration."""
    rows = [
        {"method": method, "seed": seed, "iteration": iteration, "success": success}
        for (method, seed), curve in sorted(curves.items())
        for iteration, success in sorted(curve.items())
    ]
    write_rows(file, rows)


def draw(curves: Curves, folder: Path) -> None:
    """Training games on the left, a thin line a seed; held-out games on the right, a line a run."""
    matplotlib.rcParams.update({"svg.hashsalt": "llm", "axes.spines.top": False, "axes.spines.right": False})
    figure, (training, held_out) = plt.subplots(1, 2, figsize=(7, 3), sharey=True, width_ratios=(3, 2))
    methods = sorted({method for method, _ in curves})
    for method in methods:
        lines = [_moving_mean(list(curve.values())) for (name, _), curve in sorted(curves.items()) if name == method]
        for line in lines:
            training.plot(line, color=COLOURS[method], alpha=0.3, linewidth=0.8)
        mean = np.mean([line[: min(map(len, lines))] for line in lines], axis=0)
        training.plot(mean, color=COLOURS[method], linewidth=2, label=NAMES[method])
    runs = [run for names in FILES.items() for run in read_collected(folder, *names)]
    found = {(run.method, run.seed): run for run in runs}  # a run may be in both
    for (method, _), run in sorted(found.items()):
        ends, below, above = (run.success_start, run.success_end), run.gain - run.low, run.high - run.gain
        places = np.array((0.0, 1.0)) + APART * (methods.index(method) - (len(methods) - 1) / 2)
        held_out.errorbar(places, ends, yerr=((0, below), (0, above)), fmt="o-", color=COLOURS[method], capsize=3)
    training.set(title=f"training games, mean of {WIDTH} iterations", xlabel="iteration", ylabel="success", ylim=(0, 1))
    held_out.set(title="held-out games, 95 % of the gain", xticks=(0, 1), xlim=(-0.3, 1.3))
    held_out.set_xticklabels(("before", "after"))
    training.legend(frameon=False, fontsize=8, loc="upper left")
    for axis in (training, held_out):
        axis.title.set_fontsize(9)
    figure.tight_layout()
    figure.savefig(folder / "curve.svg", metadata={"Date": None})
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Add the runs below the folder that is named, and draw all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="default: the folder")
    arguments = parser.parse_args(words)
    output = arguments.output or arguments.folder
    try:
        runs = read_runs(arguments.folder)
    except ValueError as error:
        parser.error(str(error))
    curves = {} if output.samefile(arguments.folder) else read_curves(output / "curves.csv")
    for run in runs:
        curves[run.method, run.seed] = curve_of(arguments.folder / f"{run.method}_{run.seed}")
    write_curves(curves, output / "curves.csv")
    draw(curves, output)
    _logger.info("%s: %s", output / "curve.svg", count(len(curves), "run"))


def _moving_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """The mean of the last iterations, of fewer at the beginning."""
    return np.array([np.mean(values[max(0, place - WIDTH + 1) : place + 1]) for place in range(len(values))])


if __name__ == "__main__":
    main()
