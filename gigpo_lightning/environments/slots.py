"""What lives in a slot: copies of a prototype environment, what they say, and a worker process's life.

A worker imports this file and the environment's, and so neither torch nor an engine.
"""

import contextlib
import copy
import logging
import math
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from gigpo_lightning.environments.base import Environment, Task, check_metrics
from gigpo_lightning.errors import RunError
from gigpo_lightning.prompts.fitting import well_formed

READY = "ready"
"""What a worker says first."""

_MOST_THREADS = 1 << 12  # made as they are needed: no command may wait for another's to end

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
        metrics: The environment's own figures of the episode so far.
        reward: Of the step; 0 after a reset.
        terminated: Gymnasium's.
        truncated: Gymnasium's.
        seconds: How long the environment took.
        failure: Why the episode is lost, such as the traceback of what the environment raised; then all else is empty.
        fatal: Why no other attempt will do better, if the environment says so by a RunError; the message alone.
        bystander: Whether it was lost with its worker while that served another episode.
    """

    slot: int
    observation: str = ""
    anchor: Hashable = ""
    admissible_actions: tuple[str, ...] | None = None
    instruction: str = ""
    success: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    seconds: float = 0.0
    failure: str = ""
    fatal: str = ""
    bystander: bool = False


class EnvironmentSlots:
    """Copies of a prototype, made when first used; one that failed is thrown away, and the next episode gets a new one.

    Args:
        environment: The prototype; it is never reset itself.
    """

    def __init__(self, environment: Environment) -> None:
        self._prototype = environment
        self._environments: dict[int, Environment] = {}

    def carry_out(self, slot: int, command: Task | str) -> EnvironmentEvent:
        """Reset on a task or step on an action; what the environment raises becomes the event's failure."""
        started = time.perf_counter()
        try:
            return self._carry_out(slot, command, started)
        except Exception as error:  # whatever a user's environment raises, the other episodes must hear of it
            failure = traceback.format_exc()
            fatal = str(error) if isinstance(error, RunError) else ""
            broken = self._environments.pop(slot, None)
            with contextlib.suppress(Exception):  # it is broken already
                if broken is not None:
                    broken.close()
            seconds = time.perf_counter() - started
            return EnvironmentEvent(slot=slot, failure=failure, fatal=fatal, seconds=seconds)

    def close(self) -> None:
        """Close every copy."""
        for environment in self._environments.values():
            environment.close()
        self._environments = {}

    def _carry_out(self, slot: int, command: Task | str, started: float) -> EnvironmentEvent:
        if slot not in self._environments:
            self._environments[slot] = copy.deepcopy(self._prototype)
        environment = self._environments[slot]
        reward, terminated, truncated = 0.0, False, False
        if isinstance(command, Task):
            observation, info = environment.reset(options={"task": command})
        else:
            observation, given, terminated, truncated, info = environment.step(command)
            reward = float(given)
        anchor = info.get("anchor", observation)
        metrics = info.get("metrics", {})
        _check(observation, reward, anchor)
        observation = well_formed(observation)  # half a surrogate pair, from a web page say, no tokenizer takes
        check_metrics(metrics)
        admissible = info.get("admissible_actions")
        return EnvironmentEvent(
            slot=slot,
            observation=observation,
            anchor=anchor,
            admissible_actions=None if admissible is None else tuple(admissible),
            instruction=well_formed(info.get("instruction", "")),
            success=bool(info.get("success", False)),
            metrics={name: float(value) for name, value in metrics.items()},
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
            seconds=time.perf_counter() - started,
        )


def _check(observation: object, reward: float, anchor: object) -> None:
    """Refuse what would break the rollout later, far from its cause.

    Raises:
        TypeError: If the observation is no string, or the anchor not hashable.
        ValueError: If the reward is not finite.
    """
    if not isinstance(observation, str):
        raise TypeError(f"an environment's observation must be a string, got {observation!r}")
    if not math.isfinite(reward):
        raise ValueError(f"an environment's reward must be finite, got {reward}")
    hash(anchor)


def serve(connection: Connection, environment: Environment, folder: str) -> None:
    """A worker's life: carry out commands until told to stop or the parent is gone."""
    # A process that is killed cannot clean up: what its environments write goes where the parent will.
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and a scheduler's warning are the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    slots = EnvironmentSlots(environment)
    try:
        connection.send(_warm_up(environment) or READY)
        if waits(environment):
            _serve_in_threads(connection, slots)
        else:
            while (message := connection.recv()) is not None:
                connection.send(slots.carry_out(*message))
    except (EOFError, ConnectionError):
        _logger.debug("the parent process has gone")
    finally:
        slots.close()
        connection.close()


def _warm_up(environment: Environment) -> str:
    """Let an environment read what it needs before its first step; what went wrong, if anything did."""
    try:
        getattr(environment, "warm_up", lambda: None)()
    except Exception as error:  # whatever a user's environment raises, the parent must hear of it
        return str(error) if isinstance(error, RunError | ValueError) else traceback.format_exc()
    return ""


def waits(environment: Environment) -> bool:
    """Whether an environment says that it mostly waits, and its copies may be stepped at the same time."""
    return bool(getattr(environment, "waits", False))


def _serve_in_threads(connection: Connection, slots: EnvironmentSlots) -> None:
    """Carry out commands side by side, each slot's own one after another, and answer in whatever order they end."""
    sending = threading.Lock()

    def carry_out(slot: int, command: Task | str) -> None:
        event = slots.carry_out(slot, command)
        with sending, contextlib.suppress(ConnectionError):  # the parent may have gone
            connection.send(event)

    threads = ThreadPoolExecutor(_MOST_THREADS)
    try:
        while (message := connection.recv()) is not None:
            threads.submit(carry_out, *message)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
