"""What an environment is: a Gymnasium environment of strings, the tasks it plays, and panels of them.

An environment is a plain ``gymnasium.Env[str, str]``:

* ``reset(options={"task": task})`` starts the episode of ``task``; the same task always gives the same initial state;
* ``info["anchor"]`` is the anchor state, hashable, without history (default: the observation);
* ``info["admissible_actions"]`` lists the commands that do something (optional);
* ``info["instruction"]`` says what is asked for, in words (optional, after ``reset`` only);
* ``info["success"]`` says whether the episode has succeeded (default: False);
* ``info["metrics"]`` maps names to figures of the episode so far (optional): those of its end are logged, as means over
  episodes, beside the success rate.

Until its first ``reset`` an environment can be pickled, so that a pool can make its copies in other processes. One that
mostly waits, such as for a search engine, says so with an attribute ``waits = True``: a worker process then steps its
copies in threads, and one that waits holds up no other. One that has much to read has a method ``warm_up()``, which a
worker process calls once, before any step's deadline; and what it depends on and cannot do without it misses with a
``RunError``: if other attempts at the episode end in one, too, the run ends with its message.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium

Environment = gymnasium.Env[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do, and what its environment needs to load it.

    Attributes:
        task_id: Unique in its panel, the same on every machine.
        kind: The task's kind, for metrics per type.
        payload: What the environment needs to load it, such as a file's path.
        fingerprint: Digest of the content that ``payload`` points to, so that a panel's hash covers it.
    """

    task_id: str
    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPanel:
    """The ordered list of a split's tasks. The same data and seed give the same panel on every machine.

    Attributes:
        tasks: The tasks, in the order in which they are played.
        sha256: Digest of every task's id, kind and fingerprint, in order; paths do not enter.
    """

    tasks: tuple[Task, ...]
    sha256: str

    @classmethod
    def from_tasks(cls, tasks: Iterable[Task]) -> "TaskPanel":
        """Make a panel in the given order, and its hash.

        Raises:
            ValueError: If two tasks share an id.
        """
        ordered = tuple(tasks)
        seen: set[str] = set()
        for task in ordered:
            if task.task_id in seen:
                raise ValueError(f"task_id must be unique in a panel, got {task.task_id!r} twice")
            seen.add(task.task_id)
        content = json.dumps([[task.task_id, task.kind, task.fingerprint] for task in ordered])
        return cls(tasks=ordered, sha256=hashlib.sha256(content.encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.tasks)


@runtime_checkable
class TaskSource(Protocol):
    """Where a run's tasks come from: one panel a split."""

    def prepare(self) -> None:
        """Make or check the data on disk; called once a node, before any panel is asked for."""

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel.

        Raises:
            ValueError: If there is no such split, or it has no task.
        """


def check_environment(environment: Environment, task: Task, num_steps: int = 8) -> None:
    """Check that an environment keeps the rules that the collector relies on; run it on your own.

    Plays a pickled copy twice with the same commands, admissible and senseless ones; ``environment`` itself is left
    as it was, never reset.

    Args:
        environment: The environment, before its first ``reset``.
        task: One of its tasks.
        num_steps: Commands that are tried, if the episode does not end before.

    Raises:
        ValueError: At the first rule that is broken; the message names it and what was found.
    """
    try:
        copy = pickle.loads(pickle.dumps(environment))
    except Exception as error:  # a class decides itself what its pickling raises
        raise ValueError(f"an environment must be picklable before its first reset, but: {error!r}") from error
    try:
        first, commands = _play(copy, task, None, num_steps)
        second, _ = _play(copy, task, commands, num_steps)
    finally:
        copy.close()
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            when = f"step {number} ({commands[number - 1]!r})" if number else "reset"
            raise ValueError(
                f"the same task and commands must give the same episode, but {when} gave {one}, then {other}"
            )


def _play(
    environment: Environment, task: Task, commands: list[str] | None, num_steps: int
) -> tuple[list[tuple[object, ...]], list[str]]:
    """Play given commands, or a mixture of our own, checking each answer; returns what happened and the commands."""
    answer = environment.reset(options={"task": task})
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ValueError(f"reset must return (observation, info), got {answer!r}")
    observation, info = answer
    admissible = _check_said("reset", observation, info)
    if info.get("success", False):
        raise ValueError("info['success'] must be False after reset: there is nothing to do in this task")
    record: list[tuple[object, ...]] = [(observation, info.get("anchor", observation), admissible)]
    played: list[str] = []
    for number in range(num_steps if commands is None else len(commands)):
        played.append(_command(number, admissible) if commands is None else commands[number])
        outcome = environment.step(played[-1])
        if not isinstance(outcome, tuple) or len(outcome) != 5:
            raise ValueError(f"step must return (observation, reward, terminated, truncated, info), got {outcome!r}")
        observation, reward, terminated, truncated, info = outcome
        admissible = _check_said(f"step({played[-1]!r})", observation, info)
        _check_outcome(played[-1], reward, terminated, truncated)
        record.append((observation, info.get("anchor", observation), admissible, reward, terminated, truncated))
        if terminated or truncated:
            break
    return record, played


def _command(number: int, admissible: tuple[str, ...]) -> str:
    """The command of a trial's step: mostly admissible ones, but a policy may also write nothing, or nonsense."""
    if number == 2:
        return ""
    if number % 4 == 1 or not admissible:
        return "no such command"
    return admissible[(3 * number) % len(admissible)]


def _check_said(when: str, observation: object, info: object) -> tuple[str, ...]:
    """Check an observation and its info; returns the admissible commands, if it names any."""
    if not isinstance(observation, str):
        raise ValueError(f"the observation must be a string, but {when} gave {type(observation).__name__}")
    if not isinstance(info, dict):
        raise ValueError(f"info must be a dictionary, but {when} gave {type(info).__name__}")
    anchor = info.get("anchor", observation)
    try:
        if not isinstance(anchor, Hashable):
            raise TypeError(f"unhashable type: {type(anchor).__name__}")
        hash(anchor)  # a tuple is Hashable whatever it holds
    except TypeError as error:
        raise ValueError(f"info['anchor'] must be hashable, but after {when}: {error}") from error
    if not isinstance(info.get("instruction", ""), str):
        raise ValueError(f"info['instruction'] must be a string, but {when} gave {info['instruction']!r}")
    if not _is_bool(info.get("success", False)):
        raise ValueError(f"info['success'] must be True or False, but {when} gave {info['success']!r}")
    try:
        check_metrics(info.get("metrics", {}))
    except ValueError as error:
        raise ValueError(f"{error}, after {when}") from error
    admissible = info.get("admissible_actions", ())
    if not isinstance(admissible, list | tuple) or not all(isinstance(command, str) for command in admissible):
        raise ValueError(f"info['admissible_actions'] must be a list of strings, but {when} gave {admissible!r}")
    return tuple(admissible)


def check_metrics(metrics: object) -> None:
    """Check an episode's own figures.

    Raises:
        ValueError: If they are not finite numbers by name.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"info['metrics'] must be a dictionary, got {metrics!r}")
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"info['metrics'] must map names to finite numbers, got {name!r}: {value!r}")


def _check_outcome(command: str, reward: object, terminated: object, truncated: object) -> None:
    try:
        finite = math.isfinite(float(reward))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(f"the reward must be a finite number, but step({command!r}) gave {reward!r}")
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not _is_bool(value):
            raise ValueError(f"{name} must be True or False, but step({command!r}) gave {value!r}")


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # NumPy's own too
