"""Runs that are no ``gigpo``, for tests of what a sweep does with them."""

import sys
import time
from pathlib import Path

import yaml

from gigpo_lightning.sweep.run import Run, State, begin

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
FINISHES, FAILS, STOPS, HANGS = range(4)


def text(folder: Path, seed: int, **more: object) -> str:
    """A configuration as far as a run's folder and the program know it."""
    return yaml.safe_dump({"seed_everything": seed, "trainer": {"default_root_dir": str(folder)} | more})


def ready(folder: Path, seed: int) -> Run:
    """A run that is ready to begin."""
    run = Run(folder=folder)
    config = text(folder, seed)
    assert run.prepare(config)
    begin(run, config)
    return run


def wait_for(run: Run, state: State) -> None:
    deadline = time.monotonic() + 600
    while run.record.state != state or (state == State.RUNNING and not list(run.folder.glob("version_*"))):
        assert time.monotonic() < deadline, f"{run.folder} is {run.record.state}"
        time.sleep(0.05)
