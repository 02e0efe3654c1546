"""Sokoban levels by seed, each with a solution: a carved room, and boxes pulled away from their targets.

Playing backwards from the solved room is Taylor and Parberry's idea (Procedural Generation of Sokoban Levels, 2011);
Racanière et al. (Imagination-Augmented Agents, arXiv 1707.06203, appendix) made levels so for reinforcement learning,
in rooms carved by a random walk. Differs from both: what backward play reaches is searched breadth first, and the start
is drawn from its farther half.
"""

import random
from collections import deque

from gigpo_lightning.environments.sokoban.level import Level
from gigpo_lightning.environments.sokoban.offline.solver import reachable
from gigpo_lightning.errors import check_count

SMALLEST, LARGEST, MOST_BOXES = 5, 10, 4
_FLOOR_SHARES = (0.45, 0.85)  # of the cells within the outer walls
_MOST_STATES = 2_000  # of the backward search; a room of 6 x 6 with a box has fewer than 100
_LEAST_PULLS = 2  # that a room must allow, or every level of it would be solved by one push
_TRIES = 1_000

_Solved = tuple[frozenset[int], int]


def generate_level(seed: int | str, size: int = 6, num_boxes: int = 1) -> Level:
    """Make the level of a seed, the same on every machine.

    Args:
        seed: Of the room, the targets and the start.
        size: Rows, and columns, with the outer walls.
        num_boxes: Boxes, none of them on a target.

    Raises:
        ValueError: If a number is out of its range.
    """
    check_count("size", size, SMALLEST, LARGEST, why="with the outer walls")
    check_count("num_boxes", num_boxes, 1, min(MOST_BOXES, (size - 2) ** 2 // 6), why="a sixth of the room at most")
    rng = random.Random(f"sokoban/{seed}/{size}/{num_boxes}")  # a string's seed is its SHA-512
    for _ in range(_TRIES):
        floor = _carve(rng, size)
        cells = [cell for cell, is_floor in enumerate(floor) if is_floor]
        targets = frozenset(rng.sample(cells, num_boxes))
        empty = Level(width=size, floor=floor, targets=targets, boxes=targets, player=cells[0])
        by_pulls = _pull_apart(empty, cells)
        if len(by_pulls) >= _LEAST_PULLS:
            boxes, player = rng.choice(rng.choice(by_pulls[len(by_pulls) // 2 :]))
            stands = sorted(reachable(empty, player, boxes))
            return Level(width=size, floor=floor, targets=targets, boxes=boxes, player=rng.choice(stands))
    raise AssertionError(f"no level in {_TRIES} rooms of seed {seed!r}")


def _carve(rng: random.Random, size: int) -> tuple[bool, ...]:
    """Walk at random within the outer walls, and make floor of where it went."""
    inner = size - 2
    wanted = round(rng.uniform(*_FLOOR_SHARES) * inner * inner)
    row, column = rng.randrange(inner), rng.randrange(inner)
    carved = {(row, column)}
    down, right = 0, 1
    while len(carved) < wanted:
        if rng.random() < 0.4:
            down, right = rng.choice(((-1, 0), (1, 0), (0, -1), (0, 1)))
        row, column = min(max(row + down, 0), inner - 1), min(max(column + right, 0), inner - 1)
        carved.add((row, column))
        if row + down not in range(inner) or column + right not in range(inner):
            down, right = rng.choice(((-1, 0), (1, 0), (0, -1), (0, 1)))
    return tuple((cell // size - 1, cell % size - 1) in carved for cell in range(size * size))


def _pull_apart(solved: Level, cells: list[int]) -> list[list[_Solved]]:
    """What pulls lead to from the solved room: by their least number, the states with every box off its target.

    States in which the player can walk from one to the other are one.
    """
    found: set[_Solved] = set()
    queue: deque[tuple[int, frozenset[int], set[int]]] = deque()

    def note(pulls: int, boxes: frozenset[int], player: int) -> None:
        reach = reachable(solved, player, boxes)
        state = (boxes, min(reach))
        if state in found:
            return
        found.add(state)
        queue.append((pulls, boxes, reach))
        if not boxes & solved.targets:
            by_pulls.setdefault(pulls, []).append(state)

    by_pulls: dict[int, list[_Solved]] = {}
    for player in cells:
        if player not in solved.targets:
            note(0, solved.targets, player)
    steps = tuple(solved.steps().values())
    while queue and len(found) < _MOST_STATES:
        pulls, boxes, reach = queue.popleft()
        for box in sorted(boxes):
            for step in steps:
                beside, further = box + step, box + 2 * step
                if beside in reach and solved.floor[further] and further not in boxes:
                    note(pulls + 1, boxes - {box} | {beside}, further)
    return [by_pulls[pulls] for pulls in sorted(by_pulls)]
