"""Copies of a prototype environment, one for each slot of a pool, and what they say.

A worker process imports this file and the environment's, and so neither torch nor an engine.
"""

import contextlib
import copy
import logging
import os
import time
import traceback
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields

from gigpo_lightning.environments.answers import Answer, AnswerError, read_reset, read_step
from gigpo_lightning.environments.base import Environment, Finishes, Task
from gigpo_lightning.errors import RunError, StoppedBySignal

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentEvent(Answer):
    """What came of one ``reset`` or ``step``: the environment's answer, or why there is none.

    Attributes:
        slot: The slot that it happened in.
        success: Whether the episode has succeeded; False where the environment does not say.
        says_success: Whether the environment says so itself, be it yes or no.
        seconds: How long the environment took.
        failure: Why the episode is lost, such as the traceback of what the environment raised; then there is no answer.
        fatal: Why no other attempt will do better, if the environment says so by a RunError; the message alone.
        bystander: Whether it was lost with its worker while that served another episode.
    """

    slot: int
    observation: str = ""
    anchor: Hashable = ""
    success: bool = False
    says_success: bool = False
    seconds: float = 0.0
    failure: str = ""
    fatal: str = ""
    bystander: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Says that the run's limit has ended the episode."""


Command = Task | str | Finish
"""What an environment is told: a task to begin, an action, or the end."""


class EnvironmentCopies:
    """Copies of a prototype, made when first used; one that failed is thrown away, and the next episode gets a new one.

    Args:
        environment: The prototype; it is never reset itself.
        keyboard: Whether a KeyboardInterrupt may be the user's; else it is the environment's own, a failure.
    """

    def __init__(self, environment: Environment, *, keyboard: bool = True) -> None:
        self._prototype = environment
        self._environments: dict[int, Environment] = {}
        self._not_its_own = (StoppedBySignal, KeyboardInterrupt) if keyboard else (StoppedBySignal,)

    def carry_out(self, slot: int, command: Command) -> EnvironmentEvent:
        """Reset on a task or step on an action; what the environment raises becomes the event's failure.

        That is also SystemExit. A child process that the environment forked and let go on ends here.
        """
        started = time.perf_counter()
        try:
            with in_one_process(self._prototype):
                return self._carry_out(slot, command, started)
        except self._not_its_own:
            raise
        except BaseException as error:  # whatever a user's environment raises, the other episodes must hear of it
            self._close(slot, self._environments.pop(slot, None))
            return EnvironmentEvent(
                slot=slot,
                failure=_story(self._prototype, error),
                fatal=str(error) if isinstance(error, RunError) else "",
                seconds=time.perf_counter() - started,
            )

    def copy(self, slot: int) -> Environment:
        """The copy of a slot, made at first use."""
        if slot not in self._environments:
            self._environments[slot] = copy.deepcopy(self._prototype)
        return self._environments[slot]

    def close(self) -> None:
        """Close every copy, also if some do not want to."""
        while self._environments:
            self._close(*self._environments.popitem())

    def _close(self, slot: int, environment: Environment | None) -> None:
        try:
            if environment is not None:
                environment.close()
        except self._not_its_own:
            raise
        except BaseException as error:  # nothing is lost with it
            _logger.warning("environment %d could not be closed: %r", slot, error)

    def _carry_out(self, slot: int, command: Command, started: float) -> EnvironmentEvent:
        environment = self.copy(slot)
        if isinstance(command, Task):
            answer = read_reset(environment.reset(options={"task": command}))
        elif isinstance(command, Finish):
            assert isinstance(environment, Finishes)
            answer = read_step("", environment.finish_episode())
        else:
            answer = read_step(command, environment.step(command))
        said = {each.name: getattr(answer, each.name) for each in fields(answer)} | {"success": bool(answer.success)}
        seconds = time.perf_counter() - started
        return EnvironmentEvent(slot=slot, says_success=answer.success is not None, seconds=seconds, **said)


def _story(environment: Environment, error: BaseException) -> str:
    """What is said of a failure: a traceback, or of a broken rule, whose traceback is ours, the rule."""
    if isinstance(error, AnswerError):
        kind = type(environment)
        return f"{kind.__module__}.{kind.__qualname__}: {error}"
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def in_one_process(environment: Environment) -> Iterator[None]:
    """Call an environment, and end the child of a fork that comes back from it: its parent goes on, and answers."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            _logger.warning("%s has forked, and its child came back: the child is ended", type(environment).__name__)
            os._exit(1)
