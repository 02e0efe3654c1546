"""Shortest solutions of Sokoban levels, and an expert that plays them."""

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import count

from gigpo_lightning.environments.sokoban.level import MOVES, Level
from gigpo_lightning.errors import check_count

_State = tuple[int, frozenset[int]]


def solve(level: Level, most_states: int = 100_000) -> tuple[str, ...] | None:
    """Find a shortest solution in moves, by A* over pushes.

    A push costs the walk to it and itself. The pushes that every box needs at least, were it alone, bound the rest
    from below. A box from which no target can be reached is never pushed further.

    Args:
        level: Where to begin.
        most_states: States after which it gives up.

    Returns:
        The moves; None if there is no solution, or none was found in so many states. For a solved level: no moves.
    """
    least = _least_pushes(level)
    if any(box not in least for box in level.boxes):
        return None
    start: _State = (level.player, level.boxes)
    costs = {start: 0}
    origins: dict[_State, tuple[_State, int, int]] = {}
    number = count()  # of equal bounds the earlier one comes first, so that every machine finds the same solution
    queue = [(sum(least[box] for box in level.boxes), next(number), 0, start)]
    closed = 0
    while queue and closed < most_states:
        _, _, cost, state = heapq.heappop(queue)
        if cost > costs[state]:
            continue
        closed += 1
        player, boxes = state
        if boxes == level.targets:
            return _path(level, start, state, origins)
        walks = distances(level, player, boxes)
        for box in sorted(boxes):
            for step in level.steps().values():
                behind, ahead = box - step, box + step
                if behind not in walks or ahead not in least or ahead in boxes:
                    continue
                reached = (box, boxes - {box} | {ahead})
                total = cost + walks[behind] + 1
                if total < costs.get(reached, total + 1):
                    costs[reached] = total
                    origins[reached] = (state, behind, box)
                    bound = total + sum(least[other] for other in reached[1])
                    heapq.heappush(queue, (bound, next(number), total, reached))
    return None


def distances(level: Level, player: int, boxes: frozenset[int]) -> dict[int, int]:
    """Moves from the player's cell to every cell that it can walk to."""
    found = {player: 0}
    queue = deque([player])
    steps = tuple(level.steps().values())
    while queue:
        cell = queue.popleft()
        for step in steps:
            neighbour = cell + step
            if level.floor[neighbour] and neighbour not in boxes and neighbour not in found:
                found[neighbour] = found[cell] + 1
                queue.append(neighbour)
    return found


def reachable(level: Level, player: int, boxes: frozenset[int]) -> set[int]:
    """Cells that the player can walk to."""
    found = {player}
    stack = [player]
    steps = tuple(level.steps().values())
    while stack:
        cell = stack.pop()
        for step in steps:
            neighbour = cell + step
            if neighbour not in found and level.floor[neighbour] and neighbour not in boxes:
                found.add(neighbour)
                stack.append(neighbour)
    return found


def _least_pushes(level: Level) -> dict[int, int]:
    """Pushes from a cell to the nearest target of a box that is alone; without the cells from which there is no way."""
    found = dict.fromkeys(sorted(level.targets), 0)
    queue = deque(found)
    while queue:
        cell = queue.popleft()
        for step in level.steps().values():
            before, player = cell - step, cell - 2 * step
            if level.floor[before] and level.floor[player] and before not in found:
                found[before] = found[cell] + 1
                queue.append(before)
    return found


def _path(
    level: Level, start: _State, state: _State, origins: dict[_State, tuple[_State, int, int]]
) -> tuple[str, ...]:
    """The moves that lead to a state, pushes and the walks between them."""
    moves: list[str] = []
    while state != start:
        state, behind, box = origins[state]
        player, boxes = state
        moves += [_name(level, box - behind), *reversed(_walk(level, player, behind, boxes))]
    return tuple(reversed(moves))


def _walk(level: Level, player: int, goal: int, boxes: frozenset[int]) -> list[str]:
    """A shortest walk."""
    walks = distances(level, goal, boxes)  # from the goal, so that every step goes down
    moves: list[str] = []
    while player != goal:
        step = next(step for step in level.steps().values() if walks.get(player + step, -1) == walks[player] - 1)
        moves.append(_name(level, step))
        player += step
    return moves


def _name(level: Level, step: int) -> str:
    return next(move for move, length in level.steps().items() if length == step)


class SokobanExpert:
    """Plays a shortest solution from whatever state it sees, for demonstrations.

    Where there is no solution any more, or none was found, it moves as if nothing mattered: to the first cell that it
    may enter.

    Args:
        most_states: States of a search, after which the expert takes the level for one without a solution.
    """

    def __init__(self, most_states: int = 100_000) -> None:
        check_count("most_states", most_states)
        self.most_states = most_states
        self._plan: dict[str, str] = {}

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode's solution."""
        self._plan = {}

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """The next move of a shortest solution."""
        if observation not in self._plan:
            moves = solve(Level.parse(observation), self.most_states)
            self._plan[observation] = moves[0] if moves else next(iter(admissible_actions), MOVES[0])
        return self._plan[observation]

    def observe(self, action: str) -> None:
        """Nothing to remember: the observation is the whole state."""
