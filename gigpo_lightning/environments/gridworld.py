"""A small gridworld in text, without dependencies: for tests, examples, and learning from scratch in a minute."""

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.splits import deal
from gigpo_lightning.errors import check_count, check_range, check_seed

Cell = tuple[int, int]

MOVES: dict[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
KINDS = ("near", "far")
_SHARES = {"train": 0.6, "valid_seen": 0.2, "valid_unseen": 0.2}
SPLITS = tuple(_SHARES)
_FARTHEST_NEAR = 3
_LARGEST_SIZE = 10


class GridworldEnvironment(gymnasium.Env[str, str]):
    """Walk over a square grid to a goal; one word is one move.

    The observation says where the agent and the goal are and which neighbouring cells are walls or the edge, so it is
    the whole state and the anchor. A move into a wall, or any other word, changes nothing. There is no step limit here.

    Args:
        success_reward: Reward of reaching the goal; every other step gives 0.
    """

    def __init__(self, success_reward: float = 10.0) -> None:
        check_range("success_reward", success_reward, -math.inf)
        self.success_reward = success_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=256)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._size = 0
        self._cell: Cell = (0, 0)
        self._goal: Cell = (0, 0)
        self._walls: frozenset[Cell] = frozenset()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Put the agent on the start of ``options["task"]``.

        Raises:
            ValueError: If there is no task of a gridworld.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task) or not {"size", "start", "goal", "walls"} <= set(task.payload):
            raise ValueError(f"options must have a 'task' with size, start, goal and walls, got {options!r}")
        self._size = int(task.payload["size"])
        self._cell = _cell(task.payload["start"])
        self._goal = _cell(task.payload["goal"])
        self._walls = frozenset(_cell(wall) for wall in task.payload["walls"])
        observation, info = self._observe()
        info["instruction"] = f"go to row {self._goal[0]} column {self._goal[1]}"
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Move, if the word is a move and the way is free."""
        if action.strip() in self._free_moves():
            self._cell = _moved(self._cell, action.strip())
        observation, info = self._observe()
        reached = bool(info["success"])
        return observation, self.success_reward * reached, reached, False, info

    def _observe(self) -> tuple[str, dict[str, Any]]:
        free = self._free_moves()
        walls = " ".join(move for move in MOVES if move not in free) or "none"
        observation = (
            f"you are at row {self._cell[0]} column {self._cell[1]} . "
            f"goal at row {self._goal[0]} column {self._goal[1]} . walls {walls} ."
        )
        return observation, {"anchor": observation, "admissible_actions": free, "success": self._cell == self._goal}

    def _free_moves(self) -> tuple[str, ...]:
        return tuple(move for move in MOVES if _is_free(_moved(self._cell, move), self._size, self._walls))


class GridworldTasks:
    """Where a run's gridworld tasks come from.

    Args:
        size: Rows, and columns, of the grid.
        num_walls: Cells that cannot be entered.
        seed: Of the walls and of the split.
        kinds: ``near`` (up to three moves) and ``far``; default: both.
    """

    def __init__(self, size: int = 5, num_walls: int = 3, seed: int = 0, kinds: list[str] | None = None) -> None:
        check_count("size", size, 2)
        check_count("num_walls", num_walls, 0, size * size - 2, why="two cells are for the start and the goal")
        check_seed(seed)
        self.size = size
        self.num_walls = num_walls
        self.seed = seed
        self.kinds = kinds

    def prepare(self) -> None:
        """Nothing to prepare: tasks are computed."""

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel, as ``gridworld_panel`` lists it."""
        return gridworld_panel(split, self.size, self.num_walls, self.seed, self.kinds)


def gridworld_panel(
    split: str, size: int = 5, num_walls: int = 3, seed: int = 0, kinds: Sequence[str] | None = None
) -> TaskPanel:
    """List a split's tasks: pairs of start and goal, no pair in two splits.

    ``train`` and ``valid_seen`` share one map of walls, ``valid_unseen`` has another.

    Raises:
        ValueError: If an argument is out of its range, or nothing is left.
    """
    wanted = KINDS if kinds is None else tuple(kinds)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    check_count("size", size, 2, _LARGEST_SIZE)
    check_count("num_walls", num_walls, 0, size * size // 4, why="a quarter of the cells at most")
    unknown = sorted(set(wanted) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be among {KINDS}, got {unknown}")
    cells = [divmod(number, size) for number in range(size * size)]
    map_generator = np.random.default_rng((seed, 1 if split == "valid_unseen" else 0))
    walls = tuple(sorted(cells[index] for index in map_generator.choice(len(cells), size=num_walls, replace=False)))
    pairs = list(itertools.permutations(cells, 2))
    shuffled = [pairs[index] for index in np.random.default_rng((seed, 2)).permutation(len(pairs))]
    tasks = [_make_task(start, goal, size, walls) for start, goal in deal(shuffled, _SHARES)[split]]
    kept = [task for task in tasks if task is not None and task.kind in wanted]
    if not kept:
        raise ValueError(f"kinds must leave a task in split {split!r} of a grid of size {size}, got {list(wanted)}")
    return TaskPanel.from_tasks(kept)


def gridworld_words() -> tuple[str, ...]:
    """Every word that an observation or an action can have, on grids up to the largest size."""
    words = ("you", "are", "at", "row", "column", ".", "goal", "walls", "none", "go", "to")
    return (*MOVES, *words, *(str(number) for number in range(_LARGEST_SIZE)))


def _make_task(start: Cell, goal: Cell, size: int, walls: Sequence[Cell]) -> Task | None:
    """The task of a pair; None if a wall is on it, or between its cells all around."""
    blocked = frozenset(walls)
    distance = _distance(start, goal, size, blocked)
    if distance is None:
        return None
    name = f"{start[0]}.{start[1]}-{goal[0]}.{goal[1]}"
    return Task(
        task_id=name,
        kind="near" if distance <= _FARTHEST_NEAR else "far",
        payload={"size": size, "start": start, "goal": goal, "walls": tuple(walls)},
        fingerprint=f"{size} {sorted(walls)}",
    )


def _distance(start: Cell, goal: Cell, size: int, walls: frozenset[Cell]) -> int | None:
    """Fewest moves from start to goal; None if there is no way."""
    if start in walls or goal in walls:
        return None
    distances = {start: 0}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for move in MOVES:
            neighbour = _moved(cell, move)
            if neighbour not in distances and _is_free(neighbour, size, walls):
                distances[neighbour] = distances[cell] + 1
                queue.append(neighbour)
    return distances.get(goal)


def _moved(cell: Cell, move: str) -> Cell:
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def _is_free(cell: Cell, size: int, walls: frozenset[Cell]) -> bool:
    return 0 <= cell[0] < size and 0 <= cell[1] < size and cell not in walls


def _cell(pair: Sequence[int]) -> Cell:
    row, column = pair
    return int(row), int(column)
