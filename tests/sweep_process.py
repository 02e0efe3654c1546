"""A sweep's launch in a process of its own, which imports nothing that takes long."""

import multiprocessing
import sys

from gigpo_lightning.sweep.launch import Launch, launch


def start(what: Launch) -> multiprocessing.Process:
    """Begin it; its exit code will be the signal that it was stopped by, or 0."""
    process = multiprocessing.get_context("spawn").Process(target=_carry_out, args=(what,))
    process.start()
    return process


def _carry_out(what: Launch) -> None:
    sys.exit(launch(what))
