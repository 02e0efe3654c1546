"""Panels of Sokoban levels: fixed, without a level of another split, also turned or mirrored."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.sokoban.level import Level
from gigpo_lightning.environments.sokoban.offline.generator import generate_level
from gigpo_lightning.environments.sokoban.offline.solver import solve
from gigpo_lightning.errors import check_count, check_seed

SPLITS = ("valid", "test", "train")  # in the order in which levels are dealt out
KINDS = {"short": 5, "medium": 10, "long": 36}
"""Moves of a shortest solution, at most: no longer than the paper's episodes."""

_MOST_IN_VAIN = 2_000  # levels one after another of which none is new, before they are taken for all that there are


class SokobanTasks:
    """Where a run's Sokoban levels come from: splits ``train``, ``valid`` and ``test``.

    No level is in two splits, also not turned or mirrored, and the levels of ``valid`` and ``test`` do not depend on
    ``num_train``. Each can be solved in 36 moves. Kinds: ``short`` (up to 5 moves), ``medium`` (up to 10) and ``long``.

    Args:
        size: Rows, and columns, with the outer walls; 6 is the paper's.
        num_boxes: Boxes of a level; 1 is the paper's.
        seed: Of the levels.
        num_train: Levels of ``train``.
        num_held_out: Levels of ``valid``, and of ``test``.
        kinds: Kinds of the levels; default: all, as they come.

    Raises:
        ValueError: If a number is out of its range, or a kind is unknown.
    """

    def __init__(
        self,
        size: int = 6,
        num_boxes: int = 1,
        seed: int = 0,
        num_train: int = 2048,
        num_held_out: int = 128,
        kinds: list[str] | None = None,
    ) -> None:
        check_seed(seed)
        check_count("num_train", num_train)
        check_count("num_held_out", num_held_out)
        _wanted(kinds)
        generate_level(seed, size, num_boxes)  # refuses sizes that it cannot make
        self.size = size
        self.num_boxes = num_boxes
        self.seed = seed
        self.num_train = num_train
        self.num_held_out = num_held_out
        self.kinds = kinds

    def prepare(self) -> None:
        """Nothing to prepare: levels are computed."""

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel, as ``sokoban_panel`` lists it."""
        settings = (self.size, self.num_boxes, self.seed, self.num_train, self.num_held_out, self.kinds)
        return sokoban_panel(split, *settings)


def sokoban_panel(
    split: str,
    size: int = 6,
    num_boxes: int = 1,
    seed: int = 0,
    num_train: int = 2048,
    num_held_out: int = 128,
    kinds: Sequence[str] | None = None,
) -> TaskPanel:
    """List a split's levels; ``SokobanTasks`` says how.

    Raises:
        ValueError: If there is no such split or kind, or there are fewer such levels.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {tuple(sorted(SPLITS))}, got {split!r}")
    first = {"valid": 0, "test": num_held_out, "train": 2 * num_held_out}[split]
    last = first + (num_train if split == "train" else num_held_out)
    tasks = _tasks(size, num_boxes, seed, _wanted(kinds), last if split == "train" else 2 * num_held_out)
    return TaskPanel.from_tasks(tasks[first:last])


@lru_cache(maxsize=8)
def _tasks(size: int, num_boxes: int, seed: int, kinds: tuple[str, ...], number: int) -> tuple[Task, ...]:
    """The first tasks of a seed that are of these kinds."""
    found: dict[str, Task] = {}
    in_vain = 0
    for level, kind in _solvable(size, num_boxes, seed):
        name = _digest(min(_views(level)))
        in_vain += 1
        if kind in kinds and name not in found:
            text = level.text()
            found[name] = Task(task_id=name, kind=kind, payload={"level": text}, fingerprint=_digest(text))
            in_vain = 0
        if len(found) == number:
            return tuple(found.values())
        if in_vain == _MOST_IN_VAIN:
            break
    raise ValueError(
        f"num_train and num_held_out must not ask for more levels than there are: of size {size}, num_boxes "
        f"{num_boxes} and kinds {list(kinds)} were found {len(found)} that differ, also turned and mirrored, and asked "
        f"for are {number}"
    )


def _wanted(kinds: Sequence[str] | None) -> tuple[str, ...]:
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown or (kinds is not None and not kinds):
        raise ValueError(f"kinds must be among {tuple(KINDS)}, got {unknown or kinds}")
    return tuple(kind for kind in KINDS if kinds is None or kind in kinds)


def _solvable(size: int, num_boxes: int, seed: int) -> Iterator[tuple[Level, str]]:
    """Levels, one after another, and their kinds."""
    number = 0
    while True:
        level = generate_level(f"{seed}/{number}", size, num_boxes)
        number += 1
        moves = solve(level, most_states=5_000)
        if moves is not None and len(moves) <= KINDS["long"]:
            yield level, next(kind for kind, most in KINDS.items() if len(moves) <= most)


def _views(level: Level) -> list[str]:
    """The level's text as it is, turned and mirrored."""
    rows = [row.split() for row in level.text().splitlines()]
    views = []
    for _ in range(4):
        rows = [list(row) for row in zip(*rows[::-1], strict=True)]
        views += [rows, [row[::-1] for row in rows]]
    return ["\n".join(map(" ".join, view)) for view in views]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
