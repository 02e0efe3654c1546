"""Writes down what the runs of the comparison did: results.csv, games.csv.gz and curves.csv.gz, from the runs' folders.

    python benchmarks/alfworld_tiny/collect.py runs/alfworld_experiment/core

What a run was is read from its ``config.yaml``, never from its folder's name; one that has not ended yet is left out. A
run that was stopped and went on has several versions, of which each epoch's last counts. Runs that are in the files
already and not in the folder stay there, so that runs of several machines and days come together; one of the same cell
and seed takes the place of the old one.

results.csv: a row a run. ``updates`` counts the optimizer's: it differs a little between runs, as the minibatches
of an iteration are by steps, and not all episodes are of a length. ``success_start`` and ``success_end`` are over the
held-out games of the first and the last evaluation, and empty where none was to be made; ``success_exam`` is over the
games of exam.py, if the run has played them. ``auc`` is the mean success over all training episodes of the run, each
played before its update. For each method one cell is ``selected_on_train``: that with the highest mean success in the
last fifth of its training episodes, over all seeds, of those that have run with all. games.csv.gz: a row a held-out
episode. curves.csv.gz: a row an iteration. groups.csv: the share of the steps that are in anchor groups of each size,
of the iterations whose episodes were kept. start.csv.gz: the games of exam.py, as the policy played them that all
began with.
"""

import argparse
import csv
import gzip
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gigpo_lightning.disk import read_lines
from gigpo_lightning.figures import group_size_shares

_logger = logging.getLogger(__name__)
logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of each file that it has read

EXAM = "exam"  # the split of exam.py's games, whatever they are to the environment
GAME = ("split", "task_id", "kind", "repeat", "success", "steps")
CURVES = {
    "success": "rollout/success_rate",
    "invalid": "rollout/invalid_action_rate",
    "length": "rollout/episode_length",
    "entropy": "loss/entropy",
    "group_size_mean": "anchors/group_size_mean",
    "singleton_fraction": "anchors/singleton_fraction",
    "step_to_episode_ratio": "anchors/step_to_episode_ratio",
    "iteration_seconds": "time/iteration",
    "rollout_seconds": "time/rollout",
    "credit_seconds": "time/credit",
    "update_seconds": "time/update",
    "sync_seconds": "sync/seconds",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of the comparison; its runs differ by their seeds."""

    method: str
    statistics: str
    std: bool
    anchor: str
    omega: float
    episode_weight: float
    discount: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run was and did.

    Attributes:
        cell: Its setting.
        seed: Of everything.
        iterations: Planned.
        episodes: Training episodes that were planned.
        updates: Of the policy, before the last evaluation; None if it makes none.
        evaluations: By the number of iterations before it, the episodes of an evaluation, one dictionary each.
        exam: Episodes of exam.py; none, if it has not had one.
        curves: Scalars by their names in ``CURVES``, one value an iteration.
        group_shares: By iteration, the share of its steps in anchor groups of each size.
    """

    cell: Cell
    seed: int
    iterations: int
    episodes: int
    updates: int | None
    evaluations: dict[int, list[dict[str, Any]]]
    exam: list[dict[str, Any]]
    curves: dict[str, list[float]] = field(repr=False)
    group_shares: dict[int, dict[str, float]] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether it has done all its iterations, and the evaluation after them if it makes any."""
        evaluated = not self.evaluations or self.iterations in self.evaluations
        return len(self.curves["success"]) >= self.iterations and evaluated

    def late_training_success(self) -> float:
        """Mean success in the last fifth of the training episodes."""
        return float(np.mean(self.curves["success"][-max(1, self.iterations // 5) :]))


def _success(episodes: Sequence[Mapping[str, Any]]) -> float | str:
    return round(float(np.mean([episode["success"] for episode in episodes])), 4) if episodes else ""


def homes(folder: Path) -> dict[Path, list[Path]]:
    """The folders of the runs below a folder, each with its versions, oldest first; hidden ones are exams being sat."""
    versions: dict[Path, list[Path]] = defaultdict(list)
    for config in folder.rglob("lightning_logs/version_*/config.yaml"):
        if not any(part.startswith(".") for part in config.relative_to(folder).parts):
            versions[config.parents[2]].append(config.parent)
    number = len("version_")
    return {home: sorted(versions[home], key=lambda path: int(path.name[number:])) for home in sorted(versions)}


def read_runs(folder: Path) -> list[Run]:
    """Every run below a folder that has ended."""
    runs = []
    for home, versions in homes(folder).items():
        run = read_run(versions)
        if run.ended:
            runs.append(run)
        else:
            _logger.info("left out, as it has not ended: %s, %d iterations", home, len(run.curves["success"]))
    return runs


def read_run(versions: Sequence[Path]) -> Run:
    """A run from the folders of its versions, oldest first."""
    config = yaml.safe_load((versions[-1] / "config.yaml").read_text())
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    credit, iterations = model["credit"], config["trainer"]["max_epochs"]
    arguments = credit["init_args"]
    method = credit["class_path"].rpartition(".")[2]
    evaluations = _evaluations(versions)
    return Run(
        cell=Cell(
            method=method,
            statistics=arguments.get("episode_statistics", "trajectory"),
            std=arguments.get("scale_by_std", False),
            anchor=data["environment"]["init_args"]["anchor"] if method == "GiGPO" else "none",
            omega=arguments.get("step_advantage_weight", 0.0),
            episode_weight=arguments.get("episode_advantage_weight", 1.0),
            discount=arguments.get("discount", 1.0),
            learning_rate=model["optimizer"]["init_args"]["lr"],
        ),
        seed=config["seed_everything"],
        iterations=iterations,
        episodes=iterations * data["tasks_per_epoch"] * data["group_size"],
        updates=evaluations[max(evaluations)][0]["policy_version"] if evaluations else None,
        evaluations=evaluations,
        exam=list(read_lines(exam)) if (exam := versions[-1].parents[1] / "exam.jsonl").exists() else [],
        curves=curves_of(versions),
        group_shares=_group_shares(versions),
    )


def read_collected(folder: Path) -> list[Run]:
    """The runs of the files that ``write`` has written, as it was given them; none where there are no files.

    Raises:
        ValueError: If what is there is something else's, as a sweep's own results.csv.
    """
    if not (folder / "results.csv").exists():
        return []
    if not (folder / "games.csv.gz").exists():
        raise ValueError(f"--output must be empty or collect.py's, got {folder}, whose results.csv is a sweep's")
    evaluations: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    exams, curves, shares = defaultdict(list), defaultdict(lambda: {name: [] for name in CURVES}), defaultdict(dict)
    for row in read_rows(folder / "games.csv.gz"):
        episode = {name: row[name] for name in GAME}
        episode |= {"repeat": int(row["repeat"]), "success": row["success"] == "True", "steps": int(row["steps"])}
        episodes = exams[row["run"]] if row["split"] == EXAM else evaluations[row["run"]][int(row["iterations"])]
        episodes.append(episode)
    for row in read_rows(folder / "curves.csv.gz"):
        for name in CURVES:
            curves[row["run"]][name] += [float(row[name])] if row.get(name) else []
    for row in read_rows(folder / "groups.csv"):
        number, iteration = row.pop("run"), int(row.pop("iteration"))
        shares[number][iteration] = {size: float(share) for size, share in row.items()}
    numbers = ("omega", "episode_weight", "discount", "learning_rate")
    return [
        Run(
            cell=Cell(
                **{name: row[name] for name in ("method", "statistics", "anchor")},
                **{name: float(row[name]) for name in numbers},
                std=row["std"] == "True",
            ),
            seed=int(row["seed"]),
            iterations=int(row["iterations"]),
            episodes=int(row["episodes"]),
            updates=int(row["updates"]) if row["updates"] else None,
            evaluations=dict(sorted(evaluations[row["run"]].items())),
            exam=exams[row["run"]],
            curves=curves[row["run"]],
            group_shares=shares[row["run"]],
        )
        for row in read_rows(folder / "results.csv")
    ]


def merged(old: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """Both, with the new one where both have a run of a cell and a seed."""
    runs = {(run.cell, run.seed): run for run in old}
    found = {(run.cell, run.seed): run for run in new}
    _logger.info("%d runs found, %d kept that the files had", len(found), len(runs.keys() - found.keys()))
    return [*(runs | found).values()]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of the files."""
    raw = path.read_bytes()
    return list(csv.DictReader(io.StringIO((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode())))


def _evaluations(versions: Iterable[Path]) -> dict[int, list[dict[str, Any]]]:
    """The held-out episodes of each evaluation, by the number of iterations before it."""
    found: dict[int, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for path in (version / "evaluations.jsonl" for version in versions):
        for episode in read_lines(path) if path.exists() else ():
            done = episode["epoch"] + 1 if episode["policy_version"] else 0
            found[done][episode["task_id"], episode["repeat"]] = episode
    return {done: list(episodes.values()) for done, episodes in sorted(found.items())}


def curves_of(versions: Iterable[Path]) -> dict[str, list[float]]:
    """Scalars of each iteration; of one that was done again after an interruption, the last."""
    values: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    for version in versions:
        events = EventAccumulator(str(version), size_guidance={"scalars": 0})
        events.Reload()
        there = set(events.Tags()["scalars"])
        for name, tag in CURVES.items():
            # One value a global step: of equal steps, as of the sanity check's, the later counts.
            # As it will be written, so that results follow from what is published.
            values[name] |= {event.step: round(event.value, 6) for event in events.Scalars(tag)} if tag in there else {}
    return {name: [by_step[step] for step in sorted(by_step)] for name, by_step in values.items()}


def _group_shares(versions: Iterable[Path]) -> dict[int, dict[str, float]]:
    """Shares of the steps by the size of their anchor group, of every iteration whose episodes were kept."""
    shares = {}
    for path in (path for version in versions for path in (version / "trajectories").glob("epoch_*.parquet")):
        found = group_size_shares(pq.read_table(path, columns=["step_group_id"])["step_group_id"].to_numpy())
        by_size = {name.rpartition("/")[2]: share for name, share in found.items()}
        shares[int(path.stem.removeprefix("epoch_"))] = by_size
    return dict(sorted(shares.items()))


def selected(runs: Sequence[Run]) -> set[Cell]:
    """For each method the cell that did best on its training games, of those that have run with every seed.

    Seeds meet different tasks, so cells with different seeds cannot be compared.
    """
    by_cell: dict[Cell, dict[int, float]] = defaultdict(dict)
    for run in runs:
        by_cell[run.cell][run.seed] = run.late_training_success()
    best: dict[str, Cell] = {}
    for cell, successes in by_cell.items():
        if successes.keys() < {run.seed for run in runs}:
            continue
        if cell.method not in best or _mean(successes) > _mean(by_cell[best[cell.method]]):
            best[cell.method] = cell
    return set(best.values())


def _mean(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values())))


def write(runs: Sequence[Run], folder: Path) -> None:
    """Write the four files."""
    runs = sorted(runs, key=lambda run: (*map(str, asdict(run.cell).values()), run.seed))
    chosen = selected(runs)
    results, games, curves, groups = [], [], [], []
    for number, run in enumerate(runs):
        start, *_, end = [*run.evaluations.values()] * 2 or [[], []]
        results.append(
            {
                "run": number,
                **asdict(run.cell),
                "seed": run.seed,
                "iterations": run.iterations,
                "episodes": run.episodes,
                "updates": "" if run.updates is None else run.updates,
                "games": len({episode["task_id"] for episode in end}),
                "success_start": _success(start),
                "success_end": _success(end),
                "exam_games": len(run.exam),
                "success_exam": _success(run.exam),
                "auc": round(float(np.mean(run.curves["success"])), 4),
                "late_training_success": round(run.late_training_success(), 4),
                "selected_on_train": run.cell in chosen,
            }
        )
        played = [(done, each) for done, episodes in run.evaluations.items() for each in episodes]
        played += [(run.iterations, {**each, "split": EXAM}) for each in run.exam]
        games += [{"run": number, "iterations": done} | {name: each[name] for name in GAME} for done, each in played]
        for iteration in range(run.iterations):
            row = {name: values[iteration] for name, values in run.curves.items() if len(values) > iteration}
            curves.append({"run": number, "iteration": iteration} | row)
        for iteration, shares in run.group_shares.items():
            rounded = {name: round(share, 4) for name, share in shares.items()}
            groups.append({"run": number, "iteration": iteration} | rounded)
    # Game by game, not run by run: a quarter of the size.
    games.sort(key=lambda row: (row["split"], row["task_id"], row["run"], row["iterations"], row["repeat"]))
    tables = {"results.csv": results, "games.csv.gz": games, "curves.csv.gz": curves, "groups.csv": groups}
    for name, rows in tables.items():
        write_rows(folder / name, rows)
        _logger.info("%s: %d rows", folder / name, len(rows))


def write_start(runs: Path, folder: Path) -> None:
    """Write start.csv.gz, if that exam was taken; a row a game, in the order of their names."""
    if (played := runs / "start.jsonl").exists():
        episodes = sorted(read_lines(played), key=lambda episode: episode["task_id"])
        write_rows(folder / "start.csv.gz", [{name: episode[name] for name in GAME[1:]} for episode in episodes])


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as one of the files."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    written = text.getvalue().encode()
    # Without its time of day the same runs give the same file.
    path.write_bytes(gzip.compress(written, mtime=0) if path.suffix == ".gz" else written)


def main(words: Sequence[str] | None = None) -> None:
    """Collect the runs below the folder that is named."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args(words)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(merged(read_collected(arguments.output), read_runs(arguments.folder)), arguments.output)
    write_start(arguments.folder, arguments.output)


if __name__ == "__main__":
    main()
