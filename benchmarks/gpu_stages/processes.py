"""Each part of a stage in a process of its own: a limit, an end for all its children, and nothing lost."""

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_stages.lines import EVERYWHERE, Recorder, read_file
from gpu_stages.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
_SHORTEST = 5.0  # seconds: with less time left no part is begun
_LAST_LINES = 3


def run_stages(stages: Sequence[Stage], arguments: argparse.Namespace) -> None:
    """Run every part of the stages, each in a process, until the time for all is over.

    Args:
        stages: In the order in which they run.
        arguments: The command line's.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    with _ended_by_sigterm():
        for stage in stages:
            for part in stage.parts:
                run_part(stage, part, arguments, deadline - time.monotonic())


def run_part(stage: Stage, part: str, arguments: argparse.Namespace, left: float) -> None:
    """Run one part in a process, and add how it ended to its lines.

    Args:
        stage: Whose part.
        part: Its name.
        arguments: The command line's.
        left: Seconds that are left for everything.
    """
    name, out = f"{stage.name}.{part}", Path(arguments.out)
    recorder = make_recorder(stage, part, arguments)
    limit = min(arguments.limit or stage.limit, left)
    if left < _SHORTEST:
        recorder.line(outcome="not begun", reason=f"of --minutes {arguments.minutes:g} nothing is left")
        _say(f"{name}: not begun, no time is left")
        return
    before = len(read_file(recorder.path))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_day.py"), stage.name, "--part", part]
    command += ["--function", stage.function, "--limit", f"{limit:g}", "--shape", arguments.shape]
    command += ["--minutes", f"{arguments.minutes:g}", "--out", str(out)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.monotonic()
    with (out / f"{name}.out").open("ab") as printed, (out / f"{name}.err").open("ab") as complaints:
        process = subprocess.Popen(
            command,
            stdout=printed,
            stderr=complaints,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        outcome = _wait(process, limit)
    figures = {"outcome": outcome, "seconds": time.monotonic() - started, "limit": limit}
    if outcome != "ok":
        figures["last_lines"] = _last_lines(out / f"{name}.err")
    recorder.line(**figures)
    _say(f"{name}: {outcome}, {figures['seconds']:.0f} s")
    for line in read_file(recorder.path)[before:-1]:
        _say("  " + json.dumps({key: value for key, value in line.items() if key not in EVERYWHERE}))
    for text in figures.get("last_lines", []):
        _say(f"  {text}")


def run_here(stage: Stage, part: str, arguments: argparse.Namespace) -> None:
    """Run one part in this process.

    Where it hangs is written down shortly before the limit, and where a signal hit it when that happens.
    """
    with _traceback_at_the_end(arguments.limit):
        module, function = stage.function.split(":")
        run = getattr(importlib.import_module(module), function)
        run(part, arguments.shape, make_recorder(stage, part, arguments))


def make_recorder(stage: Stage, part: str, arguments: argparse.Namespace) -> Recorder:
    """What writes the lines of a part."""
    given = {name: getattr(arguments, name) for name in ("shape", "minutes", "limit")}
    path = Path(arguments.out) / f"{stage.name}.{part}.jsonl"
    return Recorder(path, stage=stage.name, part=part, shape=arguments.shape, arguments=given)


def _wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """How a process ended; at its limit, or when this process is ended, it ends with all its children."""
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return "limit"
    finally:
        _end(process)
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return "ok" if code == 0 else f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all below it, those with a session of their own as well."""
    if process.returncode is None:
        for number in (*_descendants(process.pid), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and its orphans
    process.wait()


def _descendants(root: int) -> list[int]:
    """Processes below one, from what Linux says of each."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _last_lines(path: Path) -> list[str]:
    lines = [text for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    return lines[-_LAST_LINES:]


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the process under way is ended, too."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _traceback_at_the_end(limit: float | None) -> Iterator[None]:
    faulthandler.enable()
    if limit is not None:
        faulthandler.dump_traceback_later(max(0.8 * limit, limit - 3))
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
