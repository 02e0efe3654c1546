"""Worker processes that environments live in; one that dies or hangs is replaced, and its episodes are told."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from gigpo_lightning.environments.base import Environment, Finishes, Task
from gigpo_lightning.errors import RunError
from gigpo_lightning.pool.copies import Command, EnvironmentEvent, Finish
from gigpo_lightning.pool.worker import READY, serve, waits

_GLANCE = 0.2  # seconds between two looks at the processes: a dead one's pipe may be held open by its children

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class Deadlines:
    """How long an environment in a worker process may take before the process is replaced, in seconds.

    ``.inf`` waits for ever.
    """

    start: float = 300.0
    """For a worker process to start: to import what the environment needs."""
    reset: float = 120.0
    """For a reset, once the worker has begun it."""
    step: float = 60.0
    """For a step, once the worker has begun it."""

    def __post_init__(self) -> None:
        for name in ("start", "reset", "step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"deadlines.{name} must be > 0 seconds, got {getattr(self, name)}")


@dataclass(slots=True, kw_only=True)
class _Worker:
    """A process, the commands that it has been sent and not yet answered, oldest first, and its slots."""

    index: int
    free: list[int]
    process: Any = None
    connection: Any = None
    folder: str = ""
    """Its temporary files."""
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it began what it has done for the longest time."""
    ready_since: float = 0.0
    commands: deque[tuple[int, str, float]] = field(default_factory=deque)
    """Slot, ``"reset"`` or ``"step"``, and when it was sent."""
    taken: dict[int, str] = field(default_factory=dict)
    """Task of each slot that is taken."""

    def answered(self, slot: int) -> None:
        """Forget the slot's command."""
        if self.commands[0][0] == slot:
            self.commands.popleft()
        else:
            self.commands = deque(command for command in self.commands if command[0] != slot)


class WorkerPool:
    """Steps environments in spawned worker processes.

    Environments may start processes: those that stay in their worker's process group end with it.

    Copies of one task share a worker where there is room, so that what it caches of a task is cached once. When a
    worker dies, or takes longer than a deadline, a new one takes its place; every episode that lived in it gets an
    event that says why it is lost.

    A worker carries out its commands one by one, and a deadline begins when a command does. If its environments mostly
    wait it carries them out at the same time, and a deadline begins when a command is sent.

    Args:
        environment: Prototype, never reset; it is pickled to every worker, where each slot gets a copy.
        num_slots: How many episodes can run at once.
        workers: Number of processes.
        deadlines: How long things may take.

    Raises:
        ValueError: If the environment cannot be pickled.
    """

    def __init__(
        self, environment: Environment, num_slots: int, workers: int, deadlines: Deadlines = Deadlines()
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._environment = environment
        self._deadlines = deadlines
        self._one_by_one = not waits(environment)
        self.num_slots = num_slots
        self._lost: list[EnvironmentEvent] = []
        self._looked = 0.0
        self._workers: list[_Worker] = []
        for index in range(workers):
            worker = _Worker(index=index, free=list(range(index, num_slots, workers))[::-1])
            self._start(worker)
            self._workers.append(worker)

    @property
    def processes(self) -> list[Any]:
        """The worker processes that live now."""
        return [worker.process for worker in self._workers]

    def take_slot(self, task: Task) -> int | None:
        """Reserve a slot on the worker that plays the task already, else on the one with the most room."""
        room = [worker for worker in self._workers if worker.free]
        if not room:
            return None
        worker = max(
            room, key=lambda each: (list(each.taken.values()).count(task.task_id), len(each.free), -each.index)
        )
        slot = worker.free.pop()
        worker.taken[slot] = task.task_id
        return slot

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        worker = self._worker_of(slot)
        del worker.taken[slot]
        worker.free.append(slot)
        self._lost = [event for event in self._lost if event.slot != slot]  # not the next episode's

    def reset(self, slot: int, task: Task) -> None:
        """Send the task to the slot's worker."""
        self._send(slot, task, "reset")

    def step(self, slot: int, action: str) -> None:
        """Send the action to the slot's worker."""
        self._send(slot, action, "step")

    def finish(self, slot: int) -> bool:
        """Send the end to the slot's worker, if the environment is to hear of it."""
        if not isinstance(self._environment, Finishes):
            return False
        self._send(slot, Finish(), "step")
        return True

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """What the workers have answered, and what was lost with those that died or hung.

        Raises:
            RunError: If a worker dies or hangs before it has ever been ready: the next one would, too.
        """
        while True:
            self._replace_those_that_hang()
            self._replace_those_that_died()
            waiting = block and not self._lost and any(worker.commands for worker in self._workers)
            connections = {worker.connection: worker for worker in self._workers}
            events: list[EnvironmentEvent] = []
            for connection in wait(list(connections), min(self._patience(), _GLANCE) if waiting else 0):
                assert isinstance(connection, Connection)
                events += self._receive(connections[connection])
            events += self._lost
            self._lost = []
            if events or not waiting:
                return events

    def close(self) -> None:
        """Ask the workers to end, and end those that do not."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in self._workers:
            worker.process.join(timeout=0 if worker.commands else 2)
            _end(worker)
        self._workers = []

    def _start(self, worker: _Worker) -> None:
        worker.connection, theirs = self._context.Pipe()
        worker.folder = tempfile.mkdtemp(prefix=f"environment-{worker.index}-")
        worker.process = self._context.Process(
            target=serve,
            args=(theirs, self._environment, worker.folder),
            name=f"environment-{worker.index}",
            daemon=True,
        )
        try:
            worker.process.start()
        except (pickle.PickleError, TypeError, AttributeError) as error:
            shutil.rmtree(worker.folder)
            raise ValueError(
                f"environment must be picklable before its first reset, for workers >= 1, but: {error}"
            ) from error
        theirs.close()
        worker.ready, worker.since = False, time.monotonic()

    def _worker_of(self, slot: int) -> _Worker:
        return self._workers[slot % len(self._workers)]

    def _send(self, slot: int, command: Command, kind: str) -> None:
        if any(event.slot == slot for event in self._lost):
            return  # its episode died with the last process; the new one knows nothing of it
        worker = self._worker_of(slot)
        if not worker.commands and worker.ready:
            worker.since = time.monotonic()
        try:
            worker.connection.send((slot, command))
        except ConnectionError:
            self._bury(worker)
            return
        worker.commands.append((slot, kind, time.monotonic()))

    def _receive(self, worker: _Worker) -> list[EnvironmentEvent]:
        """All that a worker has said; if it has died, its end."""
        events: list[EnvironmentEvent] = []
        try:
            while worker.connection.poll():
                message = _read(worker.connection.recv_bytes())
                worker.since = time.monotonic()
                if not isinstance(message, EnvironmentEvent):
                    if message != READY:
                        raise RunError(f"the environment cannot be played: {message}")
                    worker.ready, worker.ready_since = True, worker.since
                    continue
                events.append(message)
                worker.answered(message.slot)
                if worker.commands and not self._one_by_one:
                    worker.since = max(worker.ready_since, worker.commands[0][2])
        except (EOFError, ConnectionError):
            self._replace(worker, self._death(worker))
        except (_UnreadableError, OSError) as error:  # of a length that no message has
            self._replace(worker, f"the environment worker {worker.index} answered what cannot be read: {error}")
        return events

    def _limit(self, worker: _Worker) -> tuple[str, float]:
        """What a worker does now, and how long that may take."""
        if not worker.ready:
            return "start", self._deadlines.start
        kind = worker.commands[0][1]
        return f"answer to a {kind}", self._deadlines.reset if kind == "reset" else self._deadlines.step

    def _patience(self) -> float:
        """Seconds until the next deadline."""
        ends = [worker.since + self._limit(worker)[1] for worker in self._workers if worker.commands]
        return max(0.0, min(ends) - time.monotonic())

    def _replace_those_that_hang(self) -> None:
        for worker in self._workers:
            if worker.commands and time.monotonic() - worker.since > self._limit(worker)[1]:
                if worker.connection.poll():
                    continue  # it has answered meanwhile
                what, seconds = self._limit(worker)
                self._replace(worker, f"the environment worker {worker.index} hung: no {what} within {seconds:g} s")

    def _replace_those_that_died(self) -> None:
        now = time.monotonic()
        if now - self._looked < _GLANCE:
            return
        self._looked = now
        for worker in self._workers:
            if not worker.process.is_alive():
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that died; its last answers tell which command it died of."""
        dead = worker.process
        _end_group(dead)  # a child that holds the pipe open would keep its end from us
        heard = self._receive(worker)
        if worker.process is dead:
            self._replace(worker, self._death(worker))
        self._lost = heard + self._lost

    def _death(self, worker: _Worker) -> str:
        worker.process.join(timeout=1)
        return f"the environment worker {worker.index} died, exit code {worker.process.exitcode}"

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Put a new process in a worker's place, and tell every episode that lived in the old one."""
        _end(worker)
        if not worker.ready:
            raise RunError(f"{reason}, before it had started")
        _logger.warning("%s; a new one takes its place", reason)
        guilty = worker.commands[0][0] if worker.commands else None  # the one that it has been at for the longest time
        self._lost += [
            EnvironmentEvent(slot=slot, failure=reason, bystander=guilty not in (None, slot))
            for slot in sorted(worker.taken)
        ]
        worker.commands.clear()
        self._start(worker)


class _UnreadableError(Exception):
    """A message that is none."""


def _read(message: bytes) -> Any:
    try:
        return pickle.loads(message)
    except Exception as error:  # an anchor's class decides itself what its unpickling raises
        raise _UnreadableError(repr(error)) from error


def _end(worker: _Worker) -> None:
    """End a process that may not want to, and those that it has started."""
    if worker.process.is_alive():
        worker.process.kill()
    _end_group(worker.process)
    worker.process.join()
    worker.connection.close()
    shutil.rmtree(worker.folder, ignore_errors=True)


def _end_group(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, or never led one
        os.killpg(process.pid, signal.SIGKILL)
