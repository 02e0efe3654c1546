"""Slots that environments live in: in this process, or in worker processes that step while the engine generates."""

import contextlib
import copy
import logging
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, runtime_checkable

from gigpo_lightning.environments.base import Environment, Task
from gigpo_lightning.errors import RunError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentEvent:
    """What came of one ``reset`` or ``step``.

    Attributes:
        slot: The slot that it happened in.
        observation: What the world says now.
        anchor: The state, by its key.
        admissible_actions: Commands that do something; None where the environment does not say.
        instruction: What is asked for; empty where the environment does not say.
        success: Whether the episode has succeeded.
        reward: Of the step; 0 after a reset.
        terminated: Gymnasium's.
        truncated: Gymnasium's.
        failure: The traceback, if the environment raised; then all else is empty.
    """

    slot: int
    observation: str = ""
    anchor: Hashable = ""
    admissible_actions: tuple[str, ...] | None = None
    instruction: str = ""
    success: bool = False
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    failure: str = ""


@runtime_checkable
class EnvironmentPool(Protocol):
    """Slots that take commands and, some time later, say what came of them."""

    @property
    def num_slots(self) -> int:
        """How many episodes can run at once."""

    def take_slot(self, task: Task) -> int | None:
        """Reserve a slot, beside the other episodes of the same task if there is room; None if all are taken."""

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""

    def reset(self, slot: int, task: Task) -> None:
        """Start an episode; returns at once."""

    def step(self, slot: int, action: str) -> None:
        """Take an action; returns at once."""

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """What has happened since; with ``block``, at least one event if any is under way."""

    def close(self) -> None:
        """End for good; a second call does nothing."""


class InProcessPool:
    """Steps environments in this process, when polled: simple to debug, but nothing overlaps.

    Args:
        environment: Prototype, never reset; each slot gets a copy at its first episode.
        num_slots: How many episodes can run at once.
    """

    def __init__(self, environment: Environment, num_slots: int) -> None:
        self._slots = _Slots(environment)
        self._num_slots = num_slots
        self._free = list(range(num_slots))[::-1]
        self._commands: deque[tuple[int, Task | str]] = deque()

    @property
    def num_slots(self) -> int:
        """How many episodes can run at once."""
        return self._num_slots

    def take_slot(self, task: Task) -> int | None:
        """Reserve any slot."""
        return self._free.pop() if self._free else None

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    def reset(self, slot: int, task: Task) -> None:
        """Start an episode at the next poll."""
        self._commands.append((slot, task))

    def step(self, slot: int, action: str) -> None:
        """Take an action at the next poll."""
        self._commands.append((slot, action))

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """Carry out every queued command."""
        commands, self._commands = self._commands, deque()
        return [self._slots.carry_out(slot, command) for slot, command in commands]

    def close(self) -> None:
        """Close every environment."""
        self._slots.close()


class WorkerPool:
    """Steps environments in spawned worker processes.

    Copies of one task share a worker where there is room, so that what it caches of a task is cached once.

    Args:
        environment: Prototype, never reset; it is pickled to every worker, where each slot gets a copy.
        num_slots: How many episodes can run at once.
        workers: Number of processes.
    """

    def __init__(self, environment: Environment, num_slots: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._num_slots = num_slots
        self._free: list[list[int]] = [list(range(i, num_slots, workers))[::-1] for i in range(workers)]
        self._tasks: list[dict[str, int]] = [{} for _ in range(workers)]
        self._task_of_slot: dict[int, str] = {}
        self._under_way = 0
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        for index in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, environment), name=f"environment-{index}", daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    @property
    def num_slots(self) -> int:
        """How many episodes can run at once."""
        return self._num_slots

    def take_slot(self, task: Task) -> int | None:
        """Reserve a slot on the worker that plays the task already, else on the one with the most room."""
        room = [index for index, free in enumerate(self._free) if free]
        if not room:
            return None
        worker = max(room, key=lambda index: (self._tasks[index].get(task.task_id, 0), len(self._free[index]), -index))
        slot = self._free[worker].pop()
        self._task_of_slot[slot] = task.task_id
        self._tasks[worker][task.task_id] = self._tasks[worker].get(task.task_id, 0) + 1
        return slot

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        worker, task_id = slot % len(self._connections), self._task_of_slot.pop(slot)
        self._free[worker].append(slot)
        self._tasks[worker][task_id] -= 1
        if not self._tasks[worker][task_id]:
            del self._tasks[worker][task_id]

    def reset(self, slot: int, task: Task) -> None:
        """Send the task to the slot's worker."""
        self._send(slot, task)

    def step(self, slot: int, action: str) -> None:
        """Send the action to the slot's worker."""
        self._send(slot, action)

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """What the workers have answered.

        Raises:
            RunError: If a worker process has died.
        """
        events: list[EnvironmentEvent] = []
        timeout = None if block and self._under_way else 0
        for connection in wait(self._connections, timeout):
            assert isinstance(connection, Connection)
            try:
                while connection.poll():
                    events.append(connection.recv())
            except (EOFError, ConnectionError) as error:
                raise self._death(self._connections.index(connection)) from error
        self._under_way -= len(events)
        return events

    def close(self) -> None:
        """Ask the workers to end, and end those that do not."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send(None)
        for process in self._processes:
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()
                process.join()
        for connection in self._connections:
            connection.close()
        self._connections, self._processes = [], []

    def _send(self, slot: int, command: Task | str) -> None:
        worker = slot % len(self._connections)
        try:
            self._connections[worker].send((slot, command))
        except ConnectionError as error:
            raise self._death(worker) from error
        self._under_way += 1

    def _death(self, worker: int) -> RunError:
        self._processes[worker].join(timeout=1)
        return RunError(f"the environment worker {worker} died, exit code {self._processes[worker].exitcode}")


def make_pool(environment: Environment, num_slots: int, workers: int) -> EnvironmentPool:
    """Make the pool for a number of worker processes; 0 steps in this process.

    Raises:
        ValueError: If ``num_slots`` < 1 or ``workers`` < 0.
    """
    if num_slots < 1:
        raise ValueError(f"num_slots must be >= 1, got {num_slots}")
    if workers < 0:
        raise ValueError(f"workers must be >= 0, got {workers}")
    if workers == 0:
        return InProcessPool(environment, num_slots)
    return WorkerPool(environment, num_slots, min(workers, num_slots))


class _Slots:
    """Copies of a prototype, made when first used."""

    def __init__(self, environment: Environment) -> None:
        self._prototype = environment
        self._environments: dict[int, Environment] = {}

    def carry_out(self, slot: int, command: Task | str) -> EnvironmentEvent:
        """Reset on a task or step on an action; what the environment raises becomes the event's failure."""
        if slot not in self._environments:
            self._environments[slot] = copy.deepcopy(self._prototype)
        environment = self._environments[slot]
        reward, terminated, truncated = 0.0, False, False
        try:
            if isinstance(command, Task):
                observation, info = environment.reset(options={"task": command})
            else:
                observation, given, terminated, truncated, info = environment.step(command)
                reward = float(given)
        except Exception:  # whatever a user's environment raises, the other episodes must hear of it
            return EnvironmentEvent(slot=slot, failure=traceback.format_exc())
        admissible = info.get("admissible_actions")
        return EnvironmentEvent(
            slot=slot,
            observation=observation,
            anchor=info.get("anchor", observation),
            admissible_actions=None if admissible is None else tuple(admissible),
            instruction=info.get("instruction", ""),
            success=bool(info.get("success", False)),
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
        )

    def close(self) -> None:
        """Close every copy."""
        for environment in self._environments.values():
            environment.close()
        self._environments = {}


def _serve(connection: Connection, environment: Environment) -> None:
    """A worker's life: carry out commands until told to stop or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    slots = _Slots(environment)
    try:
        while (message := connection.recv()) is not None:
            connection.send(slots.carry_out(*message))
    except (EOFError, ConnectionError):
        _logger.debug("the parent process has gone")
    finally:
        slots.close()
        connection.close()
