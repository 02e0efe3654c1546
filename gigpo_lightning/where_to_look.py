"""The lines that end a run: what shows what it has written."""

import sys
from collections.abc import Sequence
from pathlib import Path

_READABLE = ("figures", "transcripts", "metrics.csv", "evaluations.jsonl", "trajectories")
"""What there may be in a run's folder, what is easiest to read first."""


def where_to_look(folder: Path, boards: Sequence[str]) -> list[str]:
    """Name what there is to look at: TensorBoard where it has something to show, else the run's own files.

    Args:
        folder: The run's folder.
        boards: Folders that loggers have written for TensorBoard.
    """
    if boards:
        installed = Path(sys.executable).with_name("tensorboard")
        command = installed if installed.is_file() else "tensorboard"
        return [f"look at it: {command} --logdir {each}" for each in boards]
    found = [folder / name for name in _READABLE if (folder / name).exists()]
    return [f"look at it: {', '.join(map(str, found))}"] if found else []
