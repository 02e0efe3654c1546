"""The settings of the comparison and what their runs did, from the files that collect.py wrote."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collect import read_rows
from numpy.typing import NDArray

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
        parts = [self.method, self.statistics, self.words("std")]
        parts += [self.step_level()] if self.method == "GiGPO" else []
        return ", ".join([*parts, self.words("learning_rate")])

    def step_level(self) -> str:
        """What GiGPO adds to GRPO."""
        names = ["anchor", "omega", "discount"] + (["episode_weight"] if float(self.episode_weight) != 1 else [])
        return ", ".join(map(self.words, names))

    def words(self, name: str) -> str:
        """The value of a field, as it is spoken of."""
        value = getattr(self, name)
        spoken = {
            "std": "std" if value == "True" else "no std",
            "statistics": f"{value} statistics",
            "anchor": f"{value} anchors",
            "omega": f"ω {value}",
            "discount": f"γ {value}",
            "episode_weight": f"A_E times {value}" if float(self.episode_weight) else "no A_E",
            "learning_rate": f"lr {value}",
        }
        return spoken[name]


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
