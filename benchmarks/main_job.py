"""Seconds per iteration of ``gigpo fit`` by component, episodes and tokens per second, and resident memory.

    python benchmarks/main_job.py [RUN_FOLDER] [--config configs/alfworld/tiny_cpu.yaml] [--iterations 10] [--skip 1]

Without ``RUN_FOLDER`` the config is run, without evaluation, in a temporary folder; with it, the scalars that a run
left there are read. The first iterations hold the engine's start and are left out. Use two idle cores.
"""

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_logger = logging.getLogger(__name__)
logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of each file that it has read

Scalars = dict[str, NDArray[np.float64]]


def run(config: str, iterations: int, folder: str) -> None:
    """Run the config's first iterations through the command line."""
    gigpo = Path(sys.executable).with_name("gigpo")
    options = {
        "--trainer.default_root_dir": folder,
        "--trainer.max_epochs": str(iterations),
        "--trainer.num_sanity_val_steps": "0",
        "--trainer.limit_val_batches": "0",
    }
    subprocess.run([gigpo, "fit", "--config", config, *(part for pair in options.items() for part in pair)], check=True)


def read(folder: Path) -> Scalars:
    """Every scalar of the last run's event file under a folder, one value an iteration."""
    number = re.compile(r"version_(\d+)")  # which rises whatever the clock does
    files = {
        (path, int(found[-1])) for path in folder.rglob("events.out.tfevents.*") if (found := number.findall(str(path)))
    }
    newest, _ = max(files, key=lambda each: each[1])
    events = EventAccumulator(str(newest), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: np.array([event.value for event in events.Scalars(tag)]) for tag in events.Tags()["scalars"]}


def components(scalars: Scalars, skip: int) -> dict[str, float]:
    """Mean seconds of an iteration and of its parts, which add up to it."""
    mean = {tag: float(np.mean(values[skip:])) for tag, values in scalars.items() if tag.startswith(("time/", "sync/"))}
    engine, environment = mean["time/rollout_engine"], mean["time/rollout_environment"]
    parts = {
        "engine": engine,
        "environment": environment,
        "rest of the rollout": mean["time/rollout"] - engine - environment,
        "credit": mean["time/credit"],
        "update": mean["time/update"],
        "sync": mean["sync/seconds"],
    }
    return {"iteration": mean["time/iteration"]} | parts | {"rest": mean["time/iteration"] - sum(parts.values())}


def main() -> None:
    """Run or read, and log a table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", nargs="?")
    parser.add_argument("--config", default="configs/alfworld/tiny_cpu.yaml")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--skip", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.run_folder is None:
            run(arguments.config, arguments.iterations, folder)
        scalars = read(Path(arguments.run_folder or folder))
    seconds = components(scalars, arguments.skip)
    for name, value in seconds.items():
        _logger.info("%-20s %7.3f s  %4.0f %%", name, value, 100 * value / seconds["iteration"])
    for name in ("rollout/episodes_per_second", "rollout/tokens_per_second"):
        _logger.info("%-28s %.1f", name, float(np.mean(scalars[name][arguments.skip :])))
    resident = scalars["memory/resident_gib"]
    for number in sorted({0, 19, 49, 99, len(resident) - 1} & set(range(len(resident)))):
        _logger.info("resident memory after iteration %d: %.3f GiB", number + 1, resident[number])


if __name__ == "__main__":
    main()
