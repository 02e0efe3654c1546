"""Slots that environments live in: in this process, or in worker processes that step while the engine generates."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from gigpo_lightning.environments.base import Environment, Finishes, Task
from gigpo_lightning.errors import check_count
from gigpo_lightning.pool.copies import Command, EnvironmentCopies, EnvironmentEvent, Finish
from gigpo_lightning.pool.workers import Deadlines, WorkerPool


@runtime_checkable
class EnvironmentPool(Protocol):
    """Slots that take commands and, some time later, say what came of them."""

    @property
    def num_slots(self) -> int:
        """How many episodes can run at once."""

    def take_slot(self, task: Task) -> int | None:
        """Reserve a slot, beside the other episodes of the same task if there is room; None if all are taken."""

    def free_slot(self, slot: int) -> None:
        """Give a slot back; no command may be under way in it."""

    def reset(self, slot: int, task: Task) -> None:
        """Start an episode; returns at once."""

    def step(self, slot: int, action: str) -> None:
        """Take an action; returns at once."""

    def finish(self, slot: int) -> bool:
        """Tell an environment that the run's limit has ended its episode; False if it does not want to hear of it.

        If it does, its last answer comes some time later, as that of a step.
        """

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """What has happened since; with ``block``, at least one event if any is under way.

        An event with a failure ends its slot's episode, and may come for a slot that has no command under way: the
        process that it lived in is gone.
        """

    def close(self) -> None:
        """End for good; a second call does nothing."""


class InProcessPool:
    """Steps environments in this process, when polled: simple to debug, but nothing overlaps and a hang has no end.

    An environment that changes the working directory does so for the environments alone.

    Args:
        environment: Prototype, never reset; each slot gets a copy at its first episode.
        num_slots: How many episodes can run at once.
    """

    def __init__(self, environment: Environment, num_slots: int) -> None:
        self._copies = EnvironmentCopies(environment)
        self._finishes = isinstance(environment, Finishes)
        self.num_slots = num_slots
        self._free = list(range(num_slots))[::-1]
        self._commands: deque[tuple[int, Command]] = deque()
        self._directory = ""  # the environments'; empty: where the run is

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

    def finish(self, slot: int) -> bool:
        """Tell it at the next poll, if it is to hear of it."""
        if not self._finishes:
            return False
        self._commands.append((slot, Finish()))
        return True

    def poll(self, *, block: bool) -> list[EnvironmentEvent]:
        """Carry out every queued command."""
        commands, self._commands = self._commands, deque()
        with self._in_their_directory():
            return [self._copies.carry_out(slot, command) for slot, command in commands]

    def close(self) -> None:
        """Close every environment."""
        with self._in_their_directory():
            self._copies.close()

    @contextlib.contextmanager
    def _in_their_directory(self) -> Iterator[None]:
        """Be where the environments have gone, and back: the run's own relative paths must go on to mean the same."""
        ours = _working_directory()
        if self._directory:
            with contextlib.suppress(FileNotFoundError):  # the environments find it gone
                os.chdir(self._directory)
        try:
            yield
        finally:
            theirs = _working_directory()
            if theirs != ours:
                os.chdir(ours)
            self._directory = "" if theirs == ours else theirs


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been deleted
        return ""


def make_pool(
    environment: Environment,
    num_slots: int,
    workers: int,
    deadlines: Deadlines = Deadlines(),  # noqa: B008  frozen
) -> EnvironmentPool:
    """Make the pool for a number of worker processes; 0 steps in this process.

    Raises:
        ValueError: If ``num_slots`` < 1 or ``workers`` < 0.
    """
    check_count("num_slots", num_slots)
    check_count("workers", workers, 0)
    if workers == 0:
        return InProcessPool(environment, num_slots)
    return WorkerPool(environment, num_slots, min(workers, num_slots), deadlines)
