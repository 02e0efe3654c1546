"""Tasks that a seed makes, for environments that draw their levels or questions: ids x seeds, split by ranges."""

import hashlib
import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.errors import LARGEST_SEED, check_count, check_seed

_MOST_TASKS = 1_000_000
_SEED = "seed"


class SeededTasks:
    """Lists a task for each seed of a range; with ``ids``, one for each id and seed.

    A task's payload is ``{"seed": seed, **payload}``, with ``ids`` also ``"id"`` and what belongs to the id. The tasks
    of one seed stand together, so that the first tasks of a split are of all ids. A panel's hash covers the payload.

    Args:
        splits: First and last seed of each split, both included, such as ``{train: [0, 999], valid: [1000, 1099]}``.
        ids: What is played with each seed, such as names of data sets or levels; as a dictionary, with a payload for
            each. An id is its tasks' kind in the metrics. Default: one kind of task.
        payload: What every task's payload has beside its seed.
        id_key: Where a task's payload has the id.

    Raises:
        ValueError: If a range is not two seeds in order, two ranges overlap, an id comes twice, a payload has a key of
            its own for the seed or the id, or it cannot be written as JSON.

    Example:
        >>> tasks = SeededTasks({"train": [0, 99], "test": [100, 119]}, ids=["maze", "sudoku"])
        >>> [task.task_id for task in tasks.panel("test").tasks[:3]]
        ['maze/100', 'sudoku/100', 'maze/101']
    """

    def __init__(
        self,
        splits: dict[str, list[int]],
        ids: list[str] | dict[str, dict[str, Any]] | None = None,
        payload: dict[str, Any] | None = None,
        id_key: str = "id",
    ) -> None:
        if not splits:
            raise ValueError("splits must name at least one split, with its first and last seed, got {}")
        self.splits = {name: _range(name, bounds) for name, bounds in splits.items()}
        _check_apart(self.splits)
        self._payloads = _payloads(ids, payload or {}, id_key)
        self._fingerprints = {name: _fingerprint(name, given) for name, given in self._payloads.items()}
        for name, seeds in self.splits.items():
            number = len(seeds) * len(self._payloads)
            check_count(f"splits[{name!r}]", number, 1, _MOST_TASKS, why="tasks of one split, ids times seeds")

    def prepare(self) -> None:
        """Nothing to prepare: tasks are computed."""

    def panel(self, split: str) -> TaskPanel:
        """List the split's tasks.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split must be one of {list(self.splits)}, got {split!r}")
        return TaskPanel.from_tasks(self._task(name, seed) for seed in self.splits[split] for name in self._payloads)

    def _task(self, name: str, seed: int) -> Task:
        return Task(
            task_id=f"{name}/{seed}",
            kind=name,
            payload={_SEED: seed, **self._payloads[name]},
            fingerprint=self._fingerprints[name],
        )


def seed_of(options: Mapping[str, Any] | None) -> tuple[Task, int]:
    """Read the task that ``reset`` is told to begin, and its seed.

    Raises:
        ValueError: If there is no task, or its payload has no seed.
    """
    task = (options or {}).get("task")
    if not isinstance(task, Task) or _SEED not in task.payload:
        raise ValueError(f"options must have a 'task' whose payload has a seed, as SeededTasks lists, got {options!r}")
    seed = task.payload[_SEED]
    check_seed(seed, "task.payload['seed']")
    return task, int(seed)


def _range(name: str, bounds: list[int]) -> range:
    """The seeds of a split."""
    rule = f"splits[{name!r}] must be its first and last seed, both in [0, {LARGEST_SEED}] and in order"
    whole = isinstance(bounds, list | tuple) and all(type(bound) is int for bound in bounds)
    if not whole or len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= LARGEST_SEED:
        raise ValueError(f"{rule}, got {bounds!r}")
    return range(bounds[0], bounds[1] + 1)


def _check_apart(splits: Mapping[str, range]) -> None:
    for (one, seeds), (other, others) in combinations(splits.items(), 2):
        low, high = max(seeds[0], others[0]), min(seeds[-1], others[-1])
        if low <= high:
            shared = f"seed {low}" if low == high else f"seeds {low} to {high}"
            raise ValueError(f"splits must not overlap, but {one!r} and {other!r} both have {shared}")


def _payloads(
    ids: list[str] | dict[str, dict[str, Any]] | None, payload: Mapping[str, Any], id_key: str
) -> dict[str, dict[str, Any]]:
    """What the tasks of each id load, beside the seed."""
    if ids is None:
        _check_free("payload", payload, _SEED)
        return {_SEED: dict(payload)}
    if not ids:
        raise ValueError(f"ids must name at least one, or be left out, got {ids!r}")
    if id_key == _SEED:
        raise ValueError(f"id_key must not be 'seed', the seed's own place, got {id_key!r}")
    repeated = sorted({name for name in ids if list(ids).count(name) > 1})
    if repeated:
        raise ValueError(f"ids must name each once, got {repeated[0]!r} twice")
    own: Mapping[str, Mapping[str, Any]] = ids if isinstance(ids, dict) else {name: {} for name in ids}
    _check_free("payload", payload, _SEED, id_key)
    for name, given in own.items():
        _check_free(f"ids[{name!r}]", given, _SEED, id_key, *payload)
    return {name: {id_key: name, **payload, **given} for name, given in own.items()}


def _check_free(argument: str, payload: Mapping[str, Any], *taken: str) -> None:
    """Refuse a payload that would be overwritten, or overwrite."""
    for key in taken:
        if key in payload:
            raise ValueError(f"{argument} must leave the key {key!r} free, got {payload!r}")


def _fingerprint(name: str, payload: Mapping[str, Any]) -> str:
    try:
        content = json.dumps(payload, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payload of {name!r} must be what JSON can write, got {dict(payload)!r}: {error}") from error
    return hashlib.sha256(content.encode()).hexdigest()[:16] if payload else ""
