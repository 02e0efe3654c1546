"""Sokoban as an environment of strings."""

import math
from typing import Any

import gymnasium

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.seeded_tasks import seed_of
from gigpo_lightning.environments.sokoban.level import MOVES, SYMBOLS, Level, blank_symbols, put
from gigpo_lightning.environments.sokoban.offline.generator import generate_level
from gigpo_lightning.errors import check_count, check_range

_INSTRUCTION = (
    "push every box onto a target . # is a wall , _ is floor , O a target , X a box , √ a box on a target , "
    "P is you , S is you on a target . boxes cannot be pulled"
)


class SokobanEnvironment(gymnasium.Env[str, str]):
    """Push boxes onto targets, in a room shown by symbols; one word is one move.

    The observation is the whole state and the anchor. A move into a wall, or of a box that cannot be pushed, changes
    nothing, as does any other word; it costs a step all the same. Rewards and symbols are those of the reference code,
    which takes the rewards from gym-sokoban (Schrader, 2018): its step limit here is ``max_steps``.

    A task's payload has a ``level`` (``SokobanTasks``), or a ``seed`` to make one from (``SeededTasks``), with ``size``
    and ``num_boxes`` if they are not 6 and 1.

    Args:
        max_steps: Steps after which an episode is truncated; 36 is the paper's. A run may set a lower limit.
        step_penalty: Taken from every step's reward.
        box_reward: For a box that comes onto a target; taken away again where one leaves a target.
        finish_reward: For the last box, beside its own reward; the episode has then succeeded.
    """

    def __init__(
        self, max_steps: int = 36, step_penalty: float = 0.1, box_reward: float = 1.0, finish_reward: float = 10.0
    ) -> None:
        check_count("max_steps", max_steps)
        for name, value in (("step_penalty", step_penalty), ("box_reward", box_reward)):
            check_range(name, value)
        check_range("finish_reward", finish_reward, -math.inf)
        self.max_steps = max_steps
        self.step_penalty = step_penalty
        self.box_reward = box_reward
        self.finish_reward = finish_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=512)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._floor: tuple[bool, ...] = ()
        self._targets: frozenset[int] = frozenset()
        self._boxes: set[int] = set()
        self._player = 0
        self._moves: dict[str, int] = {}
        self._blank: list[str] = []
        self._num_on_target = 0
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the level of ``options["task"]``.

        Raises:
            ValueError: If there is no task with a level or a seed, or its level cannot be read.
        """
        super().reset(seed=seed)
        level = _level(options)
        self._floor, self._targets, self._boxes = level.floor, level.targets, set(level.boxes)
        self._player, self._moves, self._blank = level.player, level.steps(), blank_symbols(level)
        self._num_on_target, self._num_steps = len(level.boxes & level.targets), 0
        observation, info = self._observe()
        info["instruction"] = _INSTRUCTION
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Move, if the word is a move and the way is free."""
        self._num_steps += 1
        length = self._moves.get(action.strip().lower())
        if length is not None and self._can(length):
            self._player += length
            if self._player in self._boxes:
                self._boxes.remove(self._player)
                self._boxes.add(self._player + length)
        before, self._num_on_target = self._num_on_target, len(self._boxes & self._targets)
        observation, info = self._observe()
        solved = info["success"]
        reward = self.box_reward * (self._num_on_target - before) + self.finish_reward * solved - self.step_penalty
        return observation, reward, solved, not solved and self._num_steps >= self.max_steps, info

    def _observe(self) -> tuple[str, dict[str, Any]]:
        symbols = self._blank.copy()
        put(symbols, self._targets, self._boxes, self._player)
        observation = "".join(symbols)
        return observation, {
            "anchor": observation,
            "admissible_actions": tuple(move for move, length in self._moves.items() if self._can(length)),
            "success": self._num_on_target == len(self._targets),
            "metrics": {"boxes_on_target": self._num_on_target / len(self._targets)},
        }

    def _can(self, length: int) -> bool:
        """Whether the player can go one cell further, pushing a box if there is one."""
        ahead = self._player + length
        if ahead in self._boxes:
            ahead += length
            return self._floor[ahead] and ahead not in self._boxes
        return self._floor[ahead]


def sokoban_words() -> tuple[str, ...]:
    """Every word that an observation, the instruction or an action can have."""
    return tuple(dict.fromkeys((*sokoban_symbols(), *_INSTRUCTION.split())))


def sokoban_symbols() -> tuple[str, ...]:
    """Every word that an observation or an action can have, for a prompt that does not show the instruction."""
    return (*MOVES, *SYMBOLS)


def _level(options: dict[str, Any] | None) -> Level:
    task = (options or {}).get("task")
    if not isinstance(task, Task) or not {"level", "seed"} & set(task.payload):
        raise ValueError(f"options must have a 'task' with a level or a seed, got {options!r}")
    if "level" in task.payload:
        return Level.parse(str(task.payload["level"]))
    _, seed = seed_of(options)
    unknown = sorted(set(task.payload) - {"seed", "size", "num_boxes"})
    if unknown:
        raise ValueError(f"a task's payload must have seed, size and num_boxes alone, got {unknown[0]!r}")
    settings = {name: task.payload[name] for name in ("size", "num_boxes") if name in task.payload}
    return generate_level(seed, **settings)
