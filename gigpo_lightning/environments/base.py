"""What an environment is: a Gymnasium environment of strings, the tasks it plays, and panels of them.

An environment is a plain ``gymnasium.Env[str, str]``:

* ``reset(options={"task": task})`` starts the episode of ``task``; the same task always gives the same initial state;
* ``info["anchor"]`` is the anchor state, hashable, without history (default: the observation);
* ``info["admissible_actions"]`` lists the commands that do something (optional);
* ``info["instruction"]`` says what is asked for, in words (optional, after ``reset`` only);
* ``info["success"]`` says whether the episode has succeeded (default: False).

Until its first ``reset`` an environment can be pickled, so that a pool can make its copies in other processes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

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
    def from_tasks(cls, tasks: Iterable[Task]) -> Self:
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


class TaskSource(Protocol):
    """Where a run's tasks come from: one panel a split."""

    def prepare(self) -> None:
        """Make or check the data on disk; called once a node, before any panel is asked for."""

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel.

        Raises:
            ValueError: If there is no such split, or it has no task.
        """
