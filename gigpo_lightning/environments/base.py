"""What an environment is: a Gymnasium environment of strings, the tasks it plays, and panels of them.

An environment is a plain ``gymnasium.Env[str, str]``:

* ``reset(options={"task": task})`` starts the episode of ``task``; the same task always gives the same initial state;
* ``info["anchor"]`` is the anchor state, hashable and picklable, without history (default: the observation), also
  after an episode's last step: it comes with every answer or with none;
* ``info["admissible_actions"]`` is a list or tuple of the commands that do something (optional);
* ``info["instruction"]`` says what is asked for, in words (optional, after ``reset`` only);
* ``info["tools"]`` is a list of functions that the policy may call, or of their JSON schemas (optional, after ``reset``
  only): the environment is stepped with calls as JSON, which ``environments.tools.read_call`` reads;
* ``info["success"]`` says whether the episode has succeeded, by True or False (default: False);
* ``info["metrics"]`` maps names to finite numbers of the episode so far (optional): those of its end are logged, as
  means over episodes, beside the success rate;
* ``info["scores"]`` maps names to finite numbers of the step that was taken (optional): an estimator of credit finds
  them as ``StepTable.scores``.

``answers.py`` reads what an environment says; an answer that breaks a rule fails its episode. So does an exception,
``SystemExit`` too. An environment may start processes: a worker process ends them with itself.

Until its first ``reset`` an environment can be pickled, so that a pool can make its copies in other processes. It may
also fulfil ``Waits``, ``WarmsUp`` and ``Finishes``. Where it misses something that it cannot do without, it raises
``RunError``: if other attempts at the episode end in one, too, the run ends with its message.
"""

import hashlib
import inspect
import json
import logging
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium

from gigpo_lightning.environments.answers import Answer, read_reset, read_step

_logger = logging.getLogger(__name__)

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
class Waits(Protocol):
    """An environment that says whether it mostly waits, such as for a search engine."""

    waits: bool
    """If so, a worker process steps its copies in threads, and one that waits holds up no other."""


@runtime_checkable
class WarmsUp(Protocol):
    """An environment that has much to read."""

    def warm_up(self) -> None:
        """Read it; a worker process calls this once, before any step's deadline."""


@runtime_checkable
class Finishes(Protocol):
    """An environment that has something to say when a run's own limit ends an episode, such as a reward."""

    def finish_episode(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """As ``step``, without an action: a rollout calls it at ``max_steps``, if the episode has not ended itself.

        Its reward is added to that of the last step.
        """


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


def check_reset(environment: Environment) -> None:
    """Refuse an environment that could not be told which task to begin.

    Raises:
        ValueError: If its ``reset`` takes no ``options``.
    """
    kind = type(environment)
    try:
        inspect.signature(environment.reset).bind(options={})
    except TypeError as error:
        raise ValueError(
            f"environment must be one whose reset takes options, as reset(self, *, seed=None, options=None) does: "
            f"options['task'] is the task to begin. {kind.__module__}.{kind.__qualname__}.reset does not: {error}"
        ) from error
    except ValueError:  # it has no signature that Python could read
        return


def check_environment(environment: Environment, task: Task, num_steps: int = 8) -> None:
    """Check that an environment keeps the rules that a rollout relies on; run it on your own.

    Plays a pickled copy twice with the same commands, admissible and senseless ones; ``environment`` itself is left
    as it was, never reset. If no info of a step has ``"success"``, the log says so: an episode whose last info does
    not have it has failed.

    Args:
        environment: The environment, before its first ``reset``.
        task: One of its tasks.
        num_steps: Commands that are tried, if the episode does not end before.

    Raises:
        ValueError: At the first rule that is broken; the message names it and what was found.
    """
    check_reset(environment)
    try:
        copy = pickle.loads(pickle.dumps(environment))
    except Exception as error:  # a class decides itself what its pickling raises
        raise ValueError(f"an environment must be picklable before its first reset, but: {error!r}") from error
    try:
        first, commands = _play(copy, task, num_steps)
        second, _ = _play(copy, task, num_steps)
    except SystemExit as error:  # it would end the caller's script as if all were well
        raise ValueError(f"an environment must not end its process, but called sys.exit({error.code!r})") from error
    finally:
        copy.close()
    for number, (one, other) in enumerate(zip(map(_repeatable, first), map(_repeatable, second), strict=False)):
        if one != other:
            when = f"step {number} ({commands[number - 1]!r})" if number else "reset"
            raise ValueError(
                f"the same task and commands must give the same episode, but {when} gave {one}, then {other}"
            )
    _check_anchors(first, commands)
    if all(answer.success is None for answer in first[1:]):  # what reset says is no outcome
        _logger.warning(
            "task %r: info['success'] did not come in a trial of %d steps. Set it to True or False at the latest in an "
            "episode's last info: an episode without it has failed",
            task.task_id,
            len(commands),
        )


def _check_anchors(answers: list[Answer], commands: list[str]) -> None:
    """An anchor in some answers alone would be compared with the observations of the others."""
    for number, answer in enumerate(answers):
        if answer.says_anchor != answers[0].says_anchor:
            raise ValueError(
                "info['anchor'] must come with every answer, the last one too, or with none, but "
                f"{'reset has none' if answer.says_anchor else 'reset has one'} and step {number} "
                f"({commands[number - 1]!r}) {'has one' if answer.says_anchor else 'has none'}"
            )


def _play(environment: Environment, task: Task, num_steps: int) -> tuple[list[Answer], list[str]]:
    """Play a mixture of commands that follows from what is offered; returns the checked answers and the commands."""
    answer = read_reset(environment.reset(options={"task": task}))
    if answer.success:
        raise ValueError("info['success'] must be False after reset: there is nothing to do in this task")
    record = [answer]
    played: list[str] = []
    for number in range(num_steps):
        played.append(_command(number, answer.admissible_actions or ()))
        answer = read_step(played[-1], environment.step(played[-1]))
        record.append(answer)
        if answer.terminated or answer.truncated:
            break
    return record, played


def _repeatable(answer: Answer) -> tuple[object, ...]:
    """What the same task and commands must give again; metrics may measure time."""
    said = (answer.observation, answer.anchor, answer.admissible_actions)
    return (*said, answer.reward, answer.terminated, answer.truncated)


def _command(number: int, admissible: tuple[str, ...]) -> str:
    """The command of a trial's step: mostly admissible ones, but a policy may also write nothing, or nonsense."""
    if number == 2:
        return ""
    if number % 4 == 1 or not admissible:
        return "no such command"
    return admissible[(3 * number) % len(admissible)]
