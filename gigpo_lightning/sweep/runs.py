"""The runs of a sweep, each in a folder of its own: what is left of them, and their processes."""

import contextlib
import functools
import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import psutil
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import HydraContext

from gigpo_lightning.changed_configuration import differences
from gigpo_lightning.disk import checkpoints_in, whole_file
from gigpo_lightning.messages import log_to_stderr
from gigpo_lightning.results import version
from gigpo_lightning.sweep.composition import Sweep

_logger = logging.getLogger(__name__)
_STOPPING = threading.Event()  # this process begins no other run


@dataclass(frozen=True, kw_only=True)
class Record:
    """What ``run.json`` holds: the last process, its exit code, the number of the first ``version_N``, all seconds."""

    exit_code: int | None = None
    pid: int = 0
    first_version: int = 0
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """How far the run has come; a process without an exit code was killed with its sweep."""
        if self.exit_code is None:
            return "stopped" if self.pid else "waiting"
        codes = {0: "finished", 128 + signal.SIGTERM: "stopped", -signal.SIGTERM: "stopped"}
        return codes.get(self.exit_code, "failed")


def read_record(folder: Path) -> Record:
    """What is known of a run."""
    held = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    return Record(**{each.name: held[each.name] for each in fields(Record) if held.get(each.name) is not None})


def write_record(folder: Path, record: Record) -> None:
    """Replace what is known of a run."""
    with whole_file(folder / "run.json") as path:
        path.write_text(json.dumps({"state": record.state} | asdict(record)) + "\n")


def _process(folder: Path) -> psutil.Process | None:
    """The run's process if it is alive on this machine, and not another program with its number."""
    record = read_record(folder)
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(record.pid)
        if record.exit_code is None and str(folder.absolute() / "config.yaml") in process.cmdline():
            return process
    return None


def _check_idle(folder: Path) -> None:
    """Refuse to touch a run that is under way on this machine."""
    if process := _process(folder):
        raise ValueError(f"a run must be carried out once at a time, but process {process.pid} is at work in {folder}")


def is_left(folder: Path, text: str) -> bool:
    """Whether a run with a configuration, as YAML, has not finished yet.

    Raises:
        ValueError: If the run is under way, or has learnt something with another configuration.
    """
    _check_idle(folder)
    finished, path = read_record(folder).state == "finished", folder / "config.yaml"
    then = yaml.safe_load(path.read_text()) if path.is_file() else {}
    changed = differences(then, yaml.safe_load(text))
    if changed and (finished or checkpoints_in(folder)):
        key, (was, now) = next(iter(changed.items()))
        wrong = f"{folder} must hold a run of the same configuration, but {key} was {was!r} and is {now!r}"
        raise ValueError(f"{wrong}; choose another folder with hydra.sweep.dir, or remove this one")
    return not finished


def prepare(folder: Path, text: str) -> None:
    """Write a run's configuration; a run without a checkpoint begins anew."""
    if not checkpoints_in(folder):
        (folder / "run.json").unlink(missing_ok=True)
    with whole_file(folder / "config.yaml") as path:
        path.write_text(text)


def carry_out(folder: Path, command: Sequence[str]) -> Record:
    """Begin a run, or go on from its last checkpoint, and wait for its end.

    Raises:
        ValueError: If another sweep has begun it meanwhile.
    """
    _check_idle(folder)
    words, started = [*command, "fit", "--config", str(folder.absolute() / "config.yaml")], time.monotonic()
    first_version = 1 + max((version(path, folder) for path in folder.rglob("version_*")), default=-1)
    record = Record(first_version=first_version)
    if checkpoints_in(folder):
        words += ["--ckpt_path", "last"]
        record = replace(read_record(folder), exit_code=None)
    with (folder / "log.txt").open("ab") as log:
        log.write(f"$ {' '.join(words)}\n".encode())
        log.flush()
        # A session of its own: Ctrl-C reaches the sweep, which stops the run in good order.
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    with process:
        write_record(folder, record := replace(record, pid=process.pid))
        code = process.wait()
    seconds = record.seconds + time.monotonic() - started
    write_record(folder, record := replace(record, exit_code=code, seconds=seconds))
    return record


def _job(folders: Sequence[Path], command: Sequence[str], config: object) -> None:
    """Carry out the run with the job's number, in this process or one of the launcher's."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the launcher's process, which Ctrl-C reaches
        signal.signal(signal.SIGINT, lambda *_: _STOPPING.set())
    if _STOPPING.is_set():
        return
    log_to_stderr()
    folder = folders[int(HydraConfig.get().job.num)]
    _logger.info("under way: %s", folder / "log.txt")
    record = carry_out(folder, command)
    _logger.info("%s after %.0f s: %s", record.state, record.seconds, folder.name)
    if record.state == "stopped":
        _STOPPING.set()


def launch(sweep: Sweep, folders: Sequence[Path], command: Sequence[str]) -> int:
    """Have Hydra's launcher carry runs out; returns the number of the signal that stopped them, 0 if none did."""
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        _STOPPING.set()
        for process in filter(None, map(_process, folders)):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL if received else signal.SIGTERM)
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        _logger.info("stopping: every run writes a checkpoint first; once more kills them")

    _STOPPING.clear()
    job = functools.partial(_job, tuple(folders), tuple(command))
    context = HydraContext(config_loader=sweep.loader, callbacks=Callback())  # type: ignore[arg-type]  # Hydra's private
    launcher = Plugins.instance().instantiate_launcher(context, job, sweep.config)
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        stack.callback(lambda: [signal.signal(number, handler) for number, handler in before.items()])
        for ended in launcher.launch([[f"hydra.sweep.subdir='{each.name}'"] for each in folders], initial_job_idx=0):
            _ = ended.return_value  # raises what the job raised
    return received[0] if received else 0
