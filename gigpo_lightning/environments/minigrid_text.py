"""MiniGrid's and BabyAI's worlds in words: what the agent sees, from where it stands; the state is the anchor.

The package is MiniGrid (https://minigrid.farama.org, Apache-2.0), ``pip install minigrid``. Views are encoded as its
documentation of ``image`` observations says: type, colour and state of each visible cell.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium

from gigpo_lightning.environments.named_actions import NamedActions

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle")
FACING = ("east", "south", "west", "north")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATES = ("open", "closed", "locked")
KINDS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava")
_WALL, _DOOR, _THINGS = KINDS.index("wall"), KINDS.index("door"), range(KINDS.index("door"), len(KINDS))
_LARGEST_VIEW = 15


class MiniGridText(NamedActions):
    """Writes what the agent sees as words, and takes words for its actions.

    An observation names the direction that the agent faces, what it carries, how far the walls ahead and beside it
    are, and each thing in view with its place: ``yellow key 2 ahead 1 left``. The anchor is the state of the whole
    grid: what is behind the agent too, but not the number of steps so far.

    Args:
        env: A MiniGrid environment with its own observations.
        names: Words of its actions, in their order; default: ``ACTIONS``, as many as there are. ``done``, the last
            action, is needed by no task, and is left out.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], names: list[str] | None = None) -> None:
        number = getattr(env.action_space, "n", len(ACTIONS))
        super().__init__(env, list(ACTIONS[:number]) if names is None else names)
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 14)

    def _named(self, observation: Mapping[str, Any], info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        observed, info = super()._named(observation, info)
        text = describe(observed["image"], int(observed["direction"]))
        return text, {**info, "mission": observed["mission"], "anchor": state_of(self.unwrapped)}


def describe(image: Any, direction: int) -> str:
    """Write a view in words.

    Args:
        image: Type, colour and state of each cell, ``(width, height, 3)``; the agent stands in the middle of the last
            row, looks towards the first, and its own cell shows what it carries.
        direction: 0 to 3: east, south, west, north.
    """
    width, height = image.shape[:2]
    middle, last = width // 2, height - 1
    carried = _thing(*image[middle, last])
    parts = [f"you face {FACING[direction]} .", f"you carry {carried or 'nothing'} ."]
    walls = [f"{way} {steps}" for way, steps in _walls(image, middle, last)]
    parts += [f"wall {' '.join(walls)} ."] if walls else []
    for y in range(last, -1, -1):
        for x in sorted(range(width), key=lambda column: abs(column - middle)):
            if (x, y) != (middle, last) and (thing := _thing(*image[x, y])):
                parts.append(f"{thing}{_place(last - y, x - middle)} .")
    return " ".join(parts)


def _thing(kind: Any, colour: Any, state: Any) -> str:
    """What is in a cell, if it is something to be named."""
    if kind not in _THINGS:
        return ""
    said = [STATES[state]] if kind == _DOOR else []
    return " ".join((*said, COLOURS[colour], KINDS[kind]))


def _place(ahead: int, aside: int) -> str:
    """Where something is, such as `` 2 ahead 1 left``."""
    side = f" {abs(aside)} {'left' if aside < 0 else 'right'}" if aside else ""
    return (f" {ahead} ahead" if ahead else "") + side


def _walls(image: Any, middle: int, last: int) -> Iterator[tuple[str, int]]:
    """Steps to the nearest visible wall straight ahead, to the left and to the right."""
    for way, x, y in (("ahead", 0, -1), ("left", -1, 0), ("right", 1, 0)):
        line = range(1, (last if y else middle) + 1)
        found = (steps for steps in line if image[middle + x * steps, last + y * steps, 0] == _WALL)
        if steps := next(found, 0):
            yield way, steps


def state_of(environment: Any) -> str:
    """The state of a MiniGrid environment: the agent's place, direction and load, and a digest of the grid."""
    cells = [_contents(cell) for cell in environment.grid.grid]
    digest = hashlib.sha256(repr(cells).encode()).hexdigest()[:16]
    column, row = map(int, environment.agent_pos)
    load = environment.carrying
    carries = f"{load.color} {load.type}" if load is not None else "nothing"
    return f"column {column} row {row} {FACING[environment.agent_dir]}, carries {carries}, grid {digest}"


def _contents(cell: Any) -> object:
    """A cell's encoding, with what is in its box."""
    if cell is None:
        return None
    return tuple(map(int, cell.encode())), _contents(getattr(cell, "contains", None))


def minigrid_words() -> tuple[str, ...]:
    """Every word of an observation or an action, for a tiny policy's vocabulary; missions have words of their own."""
    said = ("you", "face", "carry", "nothing", ".", "ahead")
    return (*ACTIONS, *said, *FACING, *COLOURS, *STATES, *KINDS, *map(str, range(_LARGEST_VIEW)))
