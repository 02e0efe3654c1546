"""A sweep's launch, or one of its runs, in a process of its own, which imports nothing that takes long."""

import multiprocessing
import sys
from pathlib import Path

from gigpo_lightning.sweep.launch import Launch, launch
from gigpo_lightning.sweep.run import Run


def start(what: Launch) -> multiprocessing.Process:
    """Begin it; its exit code will be the signal that it was stopped by, or 0."""
    process = multiprocessing.get_context("spawn").Process(target=_carry_out, args=(what,))
    process.start()
    return process


def start_run(run: Run, command: tuple[str, ...], stop_file: Path) -> multiprocessing.Process:
    """Begin one run, as a launcher's worker does."""
    process = multiprocessing.get_context("spawn").Process(target=run.carry_out, args=(command, stop_file))
    process.start()
    return process


def _carry_out(what: Launch) -> None:
    sys.exit(launch(what))
