"""Says what the comparison came to, from the files that collect.py wrote: tables, effects with intervals, figures.

    python benchmarks/alfworld_tiny/report.py

Every number is over seeds and held-out games; every interval is a 95 % bootstrap over both. Methods are compared seed
by seed and game by game: runs of one seed met the same tasks in the same order, and were evaluated with the same noise.
"""

import argparse
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from cells import Cell, Outcomes, outcomes
from collect import read_rows
from figures import draw_chosen, draw_curves, draw_groups, draw_times
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import sem, t
from two_way import two_way_bootstrap

from gigpo_lightning.confidence import paired_bootstrap

_logger = logging.getLogger(__name__)

CHOSEN = "the chosen GiGPO - the chosen GRPO"
FIRST = {
    "std": "False",
    "statistics": "trajectory",
    "anchor": "observation",
    "omega": "1.0",
    "episode_weight": "1.0",
    "learning_rate": "0.0004",
}
"""The value of each factor that others are compared with."""


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


def _means(
    several: dict[str, list[tuple[Cell, Cell]]], found: dict[Cell, Outcomes]
) -> dict[str, list[tuple[Cell, Cell]]]:
    """Of which pairs a mean is taken: of those with the most seeds, so that a cell just begun takes the others none."""
    means = {}
    for name, pairs in several.items():
        seeds = [len(shared_seeds([(found[ours], found[theirs])])) for ours, theirs in pairs]
        whole = [pair for pair, number in zip(pairs, seeds, strict=True) if number == max(seeds)]
        if len(whole) > 1:
            means[f"mean of {len(whole)}: {name}"] = whole
    return means


def comparisons(found: dict[Cell, Outcomes]) -> dict[str, list[tuple[Cell, Cell]]]:
    """What is compared, by what it is called: a pair of cells, or several that differ in the same thing.

    Every other method against GRPO with the same statistics, std and learning rate; every value of a factor against its
    first one, where nothing else differs; GiGPO's chosen cell against GRPO's, and against all of GRPO's.
    """
    single: dict[str, list[tuple[Cell, Cell]]] = {}
    several: dict[str, list[tuple[Cell, Cell]]] = defaultdict(list)
    for ours in found:
        for theirs in found:
            same = all(getattr(ours, name) == getattr(theirs, name) for name in ("statistics", "std", "learning_rate"))
            if ours.method != "GRPO" and theirs.method == "GRPO" and same:
                single[f"{ours.label()} - GRPO"] = [(ours, theirs)]
                if ours.method == "GiGPO":
                    several[f"GiGPO, {ours.step_level()} - GRPO"].append((ours, theirs))
    for name, first in FIRST.items():
        for ours in found:
            theirs = replace(ours, **{name: first})
            if theirs != ours and theirs in found:
                single[f"{ours.label()} - {theirs.words(name)}"] = [(ours, theirs)]
                several[f"{ours.words(name)} - {theirs.words(name)}"].append((ours, theirs))
    chosen = {cell.method: cell for cell, each in found.items() if each.selected}
    last: dict[str, list[tuple[Cell, Cell]]] = {}
    if "GiGPO" in chosen:
        baselines = [cell for cell in found if cell.method == "GRPO"]
        last = {f"the chosen GiGPO - {cell.label()}": [(chosen["GiGPO"], cell)] for cell in baselines}
    if {"GiGPO", "GRPO"} <= chosen.keys():
        last[CHOSEN] = [(chosen["GiGPO"], chosen["GRPO"])]
    return single | _means(several, found) | last


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


def write_tables(shown: Iterable[Table], folder: Path) -> None:
    """The tables as a page, in the folder of what collect.py wrote."""
    parts = [
        "# All cells of the comparison",
        "Written by `report.py`; [what they are](README.md). Where there is one seed, intervals are over games alone.",
    ]
    if (folder / "start.csv.gz").exists():
        won = [float(row["success"] == "True") for row in read_rows(folder / "start.csv.gz")]
        measured = _shown(paired_bootstrap([0.0] * len(won), won), "")
        parts.append(f"The policy that all began with wins {measured} of the fresh games, in one evaluation.")
    for table in shown:
        parts.append(f"## {table.title}")
        table.title = None
        page = Console(file=io.StringIO(), width=400)
        page.print(table)
        parts.append("\n".join(line.rstrip() for line in page.file.getvalue().strip().splitlines()))
    (folder / "tables.md").write_text("\n\n".join(parts) + "\n")
    _logger.info("written: %s", folder / "tables.md")


def _shown(measured: tuple[float, float, float] | None, sign: str) -> str:
    if measured is None:
        return ""
    mean, low, high = (f"{each:{sign}.3f}" for each in measured)
    return f"{mean} [{low}, {high}]" if np.isfinite(measured[1]) else mean


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    matplotlib.rcParams.update({"svg.hashsalt": "alfworld_tiny", "axes.spines.top": False, "axes.spines.right": False})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args(arguments).folder
    found = outcomes(folder)
    console = Console(width=200)
    shown = tables(found)
    console.print(*shown)
    write_tables(shown, folder)
    draw_curves(folder, found)
    draw_chosen(folder, found, folder / "chosen.svg")
    draw_groups(folder)
    seconds = draw_times(folder)
    _logger.info("credit's share of an iteration: %.3f %%", 100 * seconds["credit"] / sum(seconds.values()))


if __name__ == "__main__":
    main()
