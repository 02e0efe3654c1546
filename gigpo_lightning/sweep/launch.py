"""The launcher, Hydra's plug-in, in a process and a session of its own; and the sweep that watches its runs."""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from gigpo_lightning.sweep.composition import Source
from gigpo_lightning.sweep.run import Record, Run, State, Task

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.3
# OpenMP's and those of the libraries that have one of their own; joblib sets what it finds unset.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the launcher's process needs to know.

    Attributes:
        source: Where Hydra reads.
        folder: The sweep's.
        task: What each job does.
        environment: Added to the process's own.
    """

    source: Source
    folder: Path
    task: Task
    environment: Mapping[str, str]

    def carry_out(self) -> None:
        """Hand the runs to the launcher; ends when they all have."""
        os.environ.update(self.environment)
        with self.source.open() as loader:
            config = self.source.configuration(loader)
            config.hydra.sweep.dir = str(self.folder)
            context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(context, self.task, config)
            folder = f"hydra.sweep.dir={_quoted(str(self.folder))}"
            jobs = [[folder, f"hydra.sweep.subdir={_quoted(run.folder.name)}"] for run in self.task.runs]
            for ended in launcher.launch(jobs, initial_job_idx=0):
                _ = ended.return_value  # raises what the job raised


def launch(what: Launch) -> int:
    """Carry the runs out, say what becomes of them, and hand SIGINT and SIGTERM on as a request to stop.

    Args:
        what: The runs, and how.

    Returns:
        0, or the number of the signal that stopped the sweep.
    """
    # Ctrl-C is for the sweep to answer, not for workers that would be torn from their runs: a session of its own. And
    # an interpreter of its own, whose exit ends the workers that a launcher keeps for more work.
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
    with (
        _signals(what.task.stop_file) as received,
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(what))
        process.stdin.flush()
        records = {run: run.record for run in what.task.runs}
        ended = False
        while not ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
                ended = True
            for run, before in records.items():
                records[run] = run.record
                if records[run] != before:
                    _say(run, records[run])
    what.task.stop_file.unlink(missing_ok=True)
    if process.returncode:
        _logger.error("the launcher ended with exit code %d; what it said is above", process.returncode)
    return received[0] if received else 0


def main() -> None:
    """The launcher's process: what to do is on stdin, which ends early if the sweep is killed."""
    what = pickle.load(sys.stdin.buffer)
    assert isinstance(what, Launch)

    def stop_with_the_sweep() -> None:
        os.read(0, 1)
        what.task.stop_file.write_text("stop")

    threading.Thread(target=stop_with_the_sweep, daemon=True).start()
    try:
        what.carry_out()
    finally:
        what.task.stop_file.unlink(missing_ok=True)  # the sweep may be no more


def threads(launcher: Mapping[str, object], num_runs: int, variables: Mapping[str, str]) -> dict[str, str]:
    """How many threads a run may have where several share a machine: its share of what one alone would take.

    One alone leaves half of the machine to its environments. Nothing is said where the user has set
    ``OMP_NUM_THREADS``, or where a launcher has no ``n_jobs``: its runs take turns, or have machines of their own.

    Args:
        launcher: The launcher's configuration.
        num_runs: How many are left to do.
        variables: What the user has set, of the environment's variables.

    Example:
        >>> threads({"n_jobs": 1}, 8, {})
        {}
    """
    cores = os.cpu_count() or 1
    given = launcher.get("n_jobs", 1)
    jobs = given if isinstance(given, int) else 1
    at_a_time = min(num_runs, jobs if jobs > 0 else max(1, cores + 1 + jobs))
    if at_a_time < 2 or "OMP_NUM_THREADS" in variables:
        return {}
    return {name: str(max(1, cores // 2 // at_a_time)) for name in _THREAD_VARIABLES if name not in variables}


@contextlib.contextmanager
def _signals(stop_file: Path) -> Iterator[Sequence[int]]:
    """Turn the first SIGINT or SIGTERM into a request to stop, and any later one into one to kill."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop_file.write_text("kill" if received else "stop")
        if not received:
            _logger.info("stopping: every run writes a checkpoint first; once more kills them")
        received.append(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(run: Run, record: Record) -> None:
    if record.state == State.RUNNING:
        _logger.info("under way: %s", run.log)
    else:
        _logger.info("%s after %.0f s: %s", record.state, record.seconds, run.folder.name)


def _quoted(text: str) -> str:
    """As Hydra's grammar wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
