"""How a rollout is dropped: by every process of a job, and without a trace."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from gigpo_lightning.errors import Preempted
from gigpo_lightning.random_states import random_states, restore_random_states
from gigpo_lightning.ranks import gather

_logger = logging.getLogger(__name__)

T = TypeVar("T")


@runtime_checkable
class AsksToStop(Protocol):
    """Knows whether a run is to stop; ``callbacks.Preemption`` does."""

    def should_stop(self) -> bool:
        """Asked by whatever plays, at every turn."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def play_unless_stopped(play: Callable[[], T], should_stop: Callable[[], bool] = never) -> T:
    """Play a rollout; what one process is asked to drop is dropped by all, as if it had not been begun.

    Every process of the job must call it.

    Args:
        play: Plays; raises ``Preempted`` when it finds that it was asked to stop.
        should_stop: Asked before anything is played.

    Raises:
        Preempted: If a process was asked to stop; the random states are those from before.
    """
    if any(gather(should_stop())):  # before any has begun: bringing an engine up to date may need all of them
        raise Preempted("the rollout was not begun")
    before = random_states()
    played: list[T] = []
    try:
        played.append(play())
    except Preempted as stop:
        _logger.debug("%s", stop)
    if any(gather(not played)):
        restore_random_states(before)
        raise Preempted("the rollout was dropped")
    return played[0]
