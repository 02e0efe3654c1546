"""One run of a sweep: its folder, what is known of it, and the process that carries it out."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gigpo_lightning.disk import room_for

_VERSION = re.compile(r"version_(\d+)")
_PREEMPTED = 128 + signal.SIGTERM
_POLL_SECONDS = 0.3


class State(StrEnum):
    """How far a run has come."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What ``run.json`` holds.

    Attributes:
        state: How far the run has come; ``running`` in a folder that nobody holds is a run that was killed.
        exit_code: Of its last process, negative for a signal.
        begun: When the run was begun, in seconds since 1970.
        first_version: Number of its first folder ``version_N``; those before it are another attempt's. None in files of
            earlier versions, which have only the time to go by.
        seconds: That its processes took, those before an interruption included.
    """

    state: State = State.WAITING
    exit_code: int | None = None
    begun: float = 0.0
    first_version: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's folder.

    Attributes:
        folder: Holds ``config.yaml``, ``log.txt``, ``run.json`` and whatever the run writes.
    """

    folder: Path

    @property
    def config(self) -> Path:
        """The whole configuration."""
        return self.folder / "config.yaml"

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.folder / "log.txt"

    @property
    def record(self) -> Record:
        """What is known of it."""
        path = self.folder / "run.json"
        if not path.is_file():
            return Record()
        held = json.loads(path.read_text())
        return Record(**held | {"state": State(held["state"])})

    def write(self, record: Record) -> None:
        """Replace what is known of it, whole or not at all."""
        write_whole(self.folder / "run.json", json.dumps(asdict(record)) + "\n")

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        found = self.folder.rglob("*.ckpt")
        return any((path / "meta.pt").is_file() if path.is_dir() else True for path in found)

    def next_version(self) -> int:
        """The number that the next process's folder ``version_N`` will have at the least."""
        return 1 + max(map(self.version, self.folder.rglob("version_*")), default=-1)

    def version(self, path: Path) -> int:
        """The number of the ``version_N`` that a file lies in, which rises whatever the clock does; -1 if in none."""
        parts = path.relative_to(self.folder).parts
        return max((int(found[1]) for part in parts if (found := _VERSION.fullmatch(part))), default=-1)

    def prepare(self, text: str) -> bool:
        """Make the folder ready for a configuration, unless that is finished already.

        Args:
            text: The whole configuration, as YAML.

        Returns:
            Whether there is something left to do.

        Raises:
            ValueError: If another sweep is at work in the folder, or what was learnt there was learnt with another
                configuration.
        """
        with self.held() as free:
            if not free:
                raise ValueError(
                    f"a run must be carried out by one sweep at a time, but one is at work in {self.folder}"
                )
        finished = self.record.state == State.FINISHED
        if (finished or self.has_checkpoint()) and (differs := self.difference(text)):
            raise ValueError(
                f"{self.folder} must hold a run of the same configuration, but {differs}; choose another folder with "
                "hydra.sweep.dir, or remove this one"
            )
        return not finished

    def difference(self, text: str) -> str:
        """The first thing in which a configuration differs from the folder's; nothing if they are equal."""
        if not self.config.is_file():
            return "it has no config.yaml"
        then, now = (dict(_leaves(yaml.safe_load(each))) for each in (self.config.read_text(), text))
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                return f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
        return ""

    @contextlib.contextmanager
    def held(self) -> Iterator[IO[bytes] | None]:
        """Hold the folder against other sweeps, and the file that does it; nothing where another does."""
        if not self.folder.is_dir():
            with open(os.devnull, "rb") as nothing:
                yield nothing
            return
        with (self.folder / ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock

    def carry_out(self, command: Sequence[str], stop_file: Path) -> Record:
        """Begin the run, or go on with it, and wait for its end.

        Args:
            command: ``gigpo`` and its arguments.
            stop_file: Where it appears, the run is asked to stop in good order; where it says "kill", it is killed.
        """
        with self.held() as lock:
            if lock is None or stop_file.exists() or self.record.state == State.FINISHED:
                return self.record
            going_on = self.has_checkpoint()
            before = self.record if going_on else Record(begun=time.time(), first_version=self.next_version())
            words = [*command, "fit", "--config", str(self.config), *(["--ckpt_path", "last"] if going_on else [])]
            started = time.monotonic()
            self.write(replace(before, state=State.RUNNING, exit_code=None))
            with self.log.open("ab") as log:
                log.write(f"$ {' '.join(words)}\n".encode())
                log.flush()
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(lock.fileno(),)
                )
                asked = _wait(process, stop_file)
            code = process.returncode
            stopped = code in (_PREEMPTED, -signal.SIGTERM) or (asked and code == -signal.SIGKILL)
            state = State.FINISHED if code == 0 else State.STOPPED if stopped else State.FAILED
            seconds = before.seconds + time.monotonic() - started
            self.write(record := replace(before, state=state, exit_code=code, seconds=seconds))
            return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a launcher's jobs do: the run of the job's number.

    Attributes:
        runs: Those that are left to do.
        command: ``gigpo``.
        stop_file: As in ``Run.carry_out``.
    """

    runs: tuple[Run, ...]
    command: tuple[str, ...]
    stop_file: Path

    def __call__(self, config: DictConfig) -> str:
        """Carry the run out.

        Args:
            config: Hydra's, which says nothing of the run.

        Returns:
            The run's state.
        """
        return self.runs[int(HydraConfig.get().job.num)].carry_out(self.command, self.stop_file).state


def _wait(process: subprocess.Popen[bytes], stop_file: Path) -> bool:
    """Wait for a process, and hand on what is asked of it; whether anything was."""
    asked = ""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return bool(asked)
        now = request(stop_file)
        if now != asked:
            asked = now
            process.send_signal(signal.SIGKILL if asked == "kill" else signal.SIGTERM)


def request(stop_file: Path) -> str:
    """What is asked of the runs: nothing, "stop" or "kill"."""
    try:
        return stop_file.read_text() or "stop"
    except FileNotFoundError:
        return ""


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, each in value.items():
        yield from _leaves(each, f"{key}.{name}" if key else str(name))


def write_whole(path: Path, text: str) -> None:
    """Replace a file, whole or not at all, whoever else does at the same time.

    Raises:
        FullDiskError: If there is no room; the former file is still there.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    with room_for(path):
        try:
            partial.write_text(text)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def begin(run: Run, text: str) -> None:
    """Write a run's configuration into its folder, which is made; one that it has goes on with the same.

    Args:
        run: That ``Run.prepare`` has found something to do in.
        text: Its whole configuration, as YAML.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.difference(text):
        write_whole(run.config, text)
        run.write(Record())
    elif run.record.state == State.RUNNING:  # nobody holds the folder: it was killed
        run.write(replace(run.record, state=State.STOPPED))
