"""Runs of the comparison whose outcome is known, and its scripts."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from torch.utils.tensorboard import SummaryWriter

FOLDER = Path(__file__).parents[2] / "benchmarks" / "alfworld_tiny"


def script(name: str) -> ModuleType:
    """A script of the comparison as a module; they lie in no package, and import each other as scripts do."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def write_version(
    folder: Path, method: str, seed: int, epochs: range, wins: dict[int, list[bool]], planned: int = 4
) -> None:
    """One version of a run: it trained the epochs, and its evaluations won these games.

    Args:
        folder: Of the version.
        method: Name of the estimator.
        seed: Of the run.
        epochs: That this version trained.
        wins: By the number of iterations before it, whether each game of an evaluation was won.
        planned: Iterations of the whole run.
    """
    (folder / "trajectories").mkdir(parents=True)
    options = {"scale_by_std": True, "episode_statistics": "step"}
    options |= {"step_advantage_weight": 0.5, "discount": 0.9} if method == "GiGPO" else {}
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": planned},
        "model": {
            "init_args": {
                "credit": {"class_path": f"gigpo_lightning.algorithm.{method}", "init_args": options},
                "optimizer": {"init_args": {"lr": 1e-3}},
            }
        },
        "data": {
            "init_args": {
                "tasks_per_epoch": 2,
                "group_size": 3,
                "environment": {"init_args": {"anchor": "observation"}},
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "evaluations.jsonl").open("w") as file:
        for done, games in wins.items():
            for number, won in enumerate(games):
                line = {"split": "valid_unseen", "epoch": max(0, done - 1), "policy_version": 2 * done}
                line |= {"task_id": f"game {number}", "kind": "look", "repeat": 0, "success": won, "steps": 7}
                file.write(json.dumps(line) + "\n")
    writer = SummaryWriter(str(folder))
    for epoch in epochs:
        for name, seconds in {"credit": 1.0, "update": 1.0, "rollout": 1.0, "iteration": 5.0}.items():
            writer.add_scalar(f"time/{name}", seconds, 2 * (epoch + 1))
        writer.add_scalar("sync/seconds", 1.0, 2 * (epoch + 1))
        writer.add_scalar("rollout/success_rate", (epoch + seed) / 10 + (method == "GiGPO") / 2, 2 * (epoch + 1))
        table = pa.table({"step_group_id": np.repeat([0, 1, 2], [1, 3, 6])})
        pq.write_table(table, folder / "trajectories" / f"epoch_{epoch}.parquet")
    writer.close()
