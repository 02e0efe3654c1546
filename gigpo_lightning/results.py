"""What the folder of a run says of its success: a share of episodes, by split or of training."""

import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gigpo_lightning.disk import read_lines


def held_out(folder: Path, first_version: int = 0) -> dict[str, float]:
    """Success before the first update and in the last evaluation, as ``<split> before`` and ``<split> after``.

    Every task has the same weight.
    """
    success = {}
    for (split, number), episodes in sorted(evaluations(folder, first_version).items()):  # the last evaluation stays
        tasks: dict[str, list[bool]] = defaultdict(list)
        for (task, _), episode in episodes.items():
            tasks[task].append(episode["success"])
        success[f"{split} {'after' if number else 'before'}"] = statistics.fmean(map(statistics.fmean, tasks.values()))
    return success


def evaluations(folder: Path, first_version: int = 0) -> dict[tuple[str, int], dict[tuple[str, int], dict[str, Any]]]:
    """The held-out episodes of each split and policy version, by task and repeat: lines of ``evaluations.jsonl``.

    Of a game that an interrupted run has played twice, the later play counts. A ``version_N`` before the first is an
    earlier attempt's, and does not count.
    """
    found: dict[tuple[str, int], dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for path in _files(folder, "evaluations.jsonl", first_version):
        for line in read_lines(path):
            found[line["split"], line["policy_version"]][line["task_id"], line["repeat"]] = line
    return dict(found)


def training(folder: Path, first_version: int = 0) -> dict[str, float]:
    """Success of the last epoch whose episodes the run has kept, as ``train``; empty if it keeps none."""
    files = _files(folder, "epoch_*.parquet", first_version)
    found = {path: re.fullmatch(r"epoch_(\d+)(?:\.\d+)?", path.stem) for path in files}
    epochs = {path: int(match[1]) for path, match in found.items() if match}
    latest = [path for path, epoch in epochs.items() if epoch == max(epochs.values())]
    won: list[bool] = []
    for path in latest:
        if path.parent == latest[-1].parent:  # the latest version's, one file for each rank
            steps = pq.read_table(path, columns=["trajectory_id", "success"]).to_pydict()
            won += dict(zip(steps["trajectory_id"], steps["success"], strict=True)).values()  # once an episode
    return {"train": statistics.fmean(won)} if won else {}


def version(path: Path, folder: Path) -> int:
    """The number of the ``version_N`` of a run's folder that a file lies in, -1 if in none."""
    return max(map(int, re.findall(r"(?:^|/)version_(\d+)(?=/|$)", path.relative_to(folder).as_posix())), default=-1)


def _files(folder: Path, pattern: str, first_version: int) -> list[Path]:
    """A run's files with a name, the latest version's last."""
    found = sorted((version(path, folder), path) for path in folder.rglob(pattern))
    return [path for number, path in found if number < 0 or number >= first_version]
