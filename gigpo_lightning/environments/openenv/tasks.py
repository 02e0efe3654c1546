"""Tasks as an OpenEnv server lists them, by its task API."""

import hashlib
import json
from typing import Any
from urllib.parse import quote

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.openenv.wire import Wire
from gigpo_lightning.errors import check_count
from gigpo_lightning.text import shown

_MOST_TASKS = 1_000_000


class OpenEnvTasks:
    """The tasks of a server's splits; a task's payload is ``{"split": split, "index": index, **payload}``.

    Servers of ``openenv`` 0.10 have a task API where their environment lists tasks. For any other use ``SeededTasks``.
    A panel's hash covers what the server lists of each task.

    Args:
        url: The server's address, as ``OpenEnvEnvironment`` has it.
        payload: What every ``reset`` is given beside split and index.
        num_tasks: Only the first tasks of each split; default: all.
        kind_field: Field of a task that says its kind, for metrics per kind; default: the environment's name.
        deadline: Seconds that a request may take, with all its attempts.

    Raises:
        ValueError: If the address is none, or a number out of range.
    """

    def __init__(
        self,
        url: str,
        payload: dict[str, Any] | None = None,
        num_tasks: int | None = None,
        kind_field: str | None = None,
        deadline: float = 45.0,
    ) -> None:
        if num_tasks is not None:
            check_count("num_tasks", num_tasks)
        self.wire = Wire(url, deadline)
        self.payload = dict(payload or {})
        self.num_tasks = num_tasks
        self.kind_field = kind_field

    def prepare(self) -> None:
        """Nothing to prepare: the server has the data."""

    def panel(self, split: str) -> TaskPanel:
        """List the split's tasks.

        Raises:
            ValueError: If there is no such split, or the server lists no tasks.
            RunError: If the server does not answer.
        """
        name = self._name()
        splits = [each.get("name") for each in self._asked("GET", f"/{quote(name)}/splits")]
        if split not in splits:
            raise ValueError(f"split must be one of {splits}, got {split!r}")
        listed = self._asked("POST", f"/{quote(name)}/tasks", {"split": split}).get("tasks", [])
        known = self._asked("POST", f"/{quote(name)}/num_tasks", {"split": split}).get("num_tasks", len(listed))
        number = min(int(known), self.num_tasks or _MOST_TASKS, _MOST_TASKS)
        specs = [*listed, *[None] * (number - len(listed))][:number]  # of a long split a server may list only the first
        return TaskPanel.from_tasks(self._task(name, split, index, spec) for index, spec in enumerate(specs))

    def _task(self, name: str, split: str, index: int, spec: Any) -> Task:
        kind = spec.get(self.kind_field, name) if isinstance(spec, dict) and self.kind_field else name
        content = json.dumps([spec, self.payload], sort_keys=True)
        return Task(
            task_id=f"{split}/{index}",
            kind=str(kind),
            payload={"split": split, "index": index, **self.payload},
            fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        )

    def _name(self) -> str:
        """The environment's name on the server."""
        listed = self._asked("GET", "/list_environments")
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"the environment server {self.wire.url} must name its environment, got {shown(listed)}")
        return str(listed[0])

    def _asked(self, method: str, path: str, data: object = None) -> Any:
        status, found = self.wire.fetch(method, path, data)
        if status != 200 or found is None:
            raise ValueError(
                f"the environment server {self.wire.url} must list its tasks, but {path} answered with {status}: "
                f"{shown(found)}; without a task API use gigpo_lightning.environments.seeded_tasks.SeededTasks"
            )
        return found
