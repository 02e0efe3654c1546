"""Runs that are no ``gigpo``, for tests of what a sweep does with them."""

import json
import sys
from pathlib import Path

import yaml

from gigpo_lightning.sweep.runs import Record, carry_out, prepare

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
FINISHES, FAILS, STOPS, HANGS = range(4)


def text(folder: Path, seed: int, **more: object) -> str:
    """A configuration as far as a run's folder and the program know it."""
    return yaml.safe_dump({"seed_everything": seed, "trainer": {"default_root_dir": str(folder)} | more})


def done(folder: Path, seed: int) -> Record:
    """Carry a run out."""
    prepare(folder, text(folder, seed))
    return carry_out(folder, PROGRAM)


def write_evaluations(folder: Path, plays: list[tuple[int, str, int, bool]]) -> None:
    """Write down what an evaluation would: version, task, repeat and success of each play."""
    folder.mkdir()
    names = ("policy_version", "task_id", "repeat", "success")
    lines = [{"split": "valid"} | dict(zip(names, play, strict=True)) for play in plays]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
