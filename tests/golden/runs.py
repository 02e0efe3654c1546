"""Short runs whose figures are kept: what they are, how one is played, and what is read of it afterwards."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAMES = ("gridworld", "alfworld")

FIGURES = (
    "rollout/success_rate",
    "rollout/return",
    "loss/policy",
    "loss/kl",
    "loss/entropy",
    "loss/clip_fraction",
    "loss/gradient_norm",
)

# The clock's, and the machine's.
NOT_COMPARED = ("time/", "memory/", "sync/seconds", "rollout/tokens_per_second", "rollout/episodes_per_second")

_COMMAND = "import sys; from gigpo_lightning.cli import main; sys.argv[0] = 'gigpo'; main()"


def command(name: str, folder: Path) -> tuple[Path, list[str]]:
    """The run's folder, ``<name>`` in the given one, and the command line that makes it."""
    made = folder / name
    words = ["fit", "--config", str(HERE / f"{name}.yaml"), "--trainer.logger.init_args.save_dir", str(made)]
    if name == "alfworld":
        words += ["--data.init_args.tasks.init_args.data_dir", str(folder / "alfworld_scenes")]
    if name == "replay":
        words += ["--data.init_args.folder", str(folder / "gridworld" / "lightning_logs/version_0/trajectories")]
    return made, words


def play(name: str, folder: Path, checkout: Path = ROOT, more: Sequence[str] = ()) -> Path:
    """Carry out a golden run by a checkout's own code.

    Args:
        name: One of ``NAMES``, or ``replay`` of a gridworld run that ``folder`` has.
        folder: Gets the run's folder, ``<name>``.
        checkout: Whose code is run.
        more: Further words of the command line.

    Returns:
        The run's folder.

    Raises:
        RuntimeError: If it fails; the message ends with what it said.
    """
    made, words = command(name, folder)
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", _COMMAND, *words, *more],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"golden run {name!r} of {checkout} failed:\n{finished.stderr[-4000:]}")
    return made


def logged(run: Path) -> dict[tuple[str, int], float]:
    """Every figure of a run that does not come from the clock or the machine, by name and epoch."""
    values = {}
    with (run / "lightning_logs/version_0/metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step") and not name.startswith(NOT_COMPARED):
                    values[name, int(row["epoch"] or -1)] = float(value)
    return values


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's last checkpoint."""
    checkpoint = torch.load(run / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    weights: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return weights


def golden(run: Path) -> dict[tuple[str, int], float]:
    """The figures of a run that are kept: ``FIGURES`` of each epoch, and the norm of each final weight, as epoch -1."""
    kept = {key: value for key, value in logged(run).items() if key[0] in FIGURES}
    return kept | {(f"norm/{name}", -1): float(weight.double().norm()) for name, weight in final_weights(run).items()}


def read_golden(name: str) -> dict[tuple[str, int], float]:
    """The figures that are kept of a run."""
    with (HERE / f"{name}.csv").open(newline="") as file:
        return {(row["figure"], int(row["epoch"])): float(row["value"]) for row in csv.DictReader(file)}


def write_golden(name: str, figures: dict[tuple[str, int], float]) -> None:
    """Keep the figures of a run."""
    with (HERE / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("figure", "epoch", "value"))
        writer.writerows((figure, epoch, repr(value)) for (figure, epoch), value in sorted(figures.items()))
