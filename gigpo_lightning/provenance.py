"""Where a run came from: its code, command line, machine and time."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PATIENCE = 10.0  # seconds for git, on a file system that may be slow


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed, as this project in a checkout alone."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def git_state(folder: Path | str = ".") -> dict[str, str | bool]:
    """The commit that is checked out around a folder, and whether a file that git knows is not as it was committed.

    Empty outside a repository, before a first commit, and where there is no git.
    """
    words = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # other commands of git may be at work
    try:
        said = subprocess.run(words, env=quiet, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = said.splitlines()
    commits = [line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits == ["(initial)"]:
        return {}
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in lines)}


def command_line(words: Sequence[str] | None = None) -> str:
    """A command line, by default this process's, as a shell takes it."""
    return shlex.join(sys.argv if words is None else words)


def now() -> str:
    """The time in ISO 8601, in seconds, with the time zone of this machine."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def processor() -> dict[str, str | int | float]:
    """This machine's processor: its name, how many cores the system counts, and its memory in GiB."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    memory = round(psutil.virtual_memory().total / (1 << 30), 1)
    return {"name": name, "cores": os.cpu_count() or 1, "memory_gib": memory}
