"""GraphGPO's and RewardFlow's step level as slow, obvious loops over the steps of one task after another."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gigpo_lightning.trajectory import StepTable
from tests.algorithm.oracle import relative

GOAL = ("the goal",)


@dataclass
class Move:
    """One step: its row, where it led from and to, what was got on reaching the one and the other."""

    row: int
    here: Hashable
    there: Hashable
    reward_here: float
    reward_there: float
    idle: bool


@dataclass
class Task:
    """The episodes of one task, in their order, each with its moves."""

    episodes: list[list[Move]] = field(default_factory=list)


def tasks(table: StepTable, won: Callable[[int], bool], idle: Sequence[bool] | None = None) -> list[Task]:
    """Read the table; ``won`` is asked with an episode's last row."""
    found: dict[int, Task] = {}
    for trajectory in sorted(set(table.trajectory_id.tolist())):
        rows = [i for i in range(len(table)) if table.trajectory_id[i] == trajectory]
        rows.sort(key=lambda i: int(table.step_index[i]))
        moves = []
        for place, row in enumerate(rows):
            end = None if table.next_anchor_key is None else table.next_anchor_key[row]
            if place + 1 < len(rows):
                there: Hashable = ("state", table.anchor_key[rows[place + 1]])
            elif won(row):
                there = GOAL
            else:
                there = ("nowhere", trajectory) if end is None else ("state", end)
            before = float(table.reward[rows[place - 1]]) if place else 0.0
            here = ("state", table.anchor_key[row])
            does_nothing = bool(idle[row]) if idle is not None else False
            moves.append(Move(row, here, there, before, float(table.reward[row]), does_nothing))
        found.setdefault(int(table.episode_group_id[rows[0]]), Task()).episodes.append(moves)
    return list(found.values())


def compared(table: StepTable, worth: dict[int, float], scale_by_std: bool) -> np.ndarray:
    """Each step against the others of its task that were taken in the same state."""
    advantages = []
    for i in range(len(table)):
        alike = [
            worth[j]
            for j in range(len(table))
            if table.episode_group_id[j] == table.episode_group_id[i] and table.anchor_key[j] == table.anchor_key[i]
        ]
        advantages.append(relative(worth[i], alike, scale_by_std))
    return np.array(advantages)


def penalty(table: StepTable, row: int) -> float:
    return 0.0 if table.valid_action[row] else 0.1


def graphgpo(
    table: StepTable, *, discount: float, relative_distance: bool, scale_by_std: bool, success_by_return: bool = False
) -> np.ndarray:
    """A_S of GraphGPO."""

    def won(row: int) -> bool:
        if not success_by_return:
            return bool(table.success[row])
        return sum(table.reward[table.trajectory_id == table.trajectory_id[row]].tolist()) > 0

    worth = {}
    for task in tasks(table, won):
        moves = [move for episode in task.episodes for move in episode]
        distance: dict[Hashable, int] = {GOAL: 0}
        while True:  # one step farther a round
            farther = {m.here: distance[m.there] + 1 for m in moves if m.there in distance and m.here not in distance}
            if not farther:
                break
            least = min(farther.values())
            distance |= {state: steps for state, steps in farther.items() if steps == least}
        beyond = max(distance.values()) + 1
        for move in moves:
            exponent = distance.get(move.there, beyond)
            if relative_distance:
                exponent += 1 - distance.get(move.here, beyond)
            worth[move.row] = 10 * discount**exponent - penalty(table, move.row)
    return compared(table, worth, scale_by_std)


def rewardflow(
    table: StepTable,
    *,
    discount: float,
    first: bool,
    floor: bool,
    end_of_longest: bool,
    scale_by_std: bool,
    idle: Sequence[bool] | None = None,
) -> np.ndarray:
    """A_S of RewardFlow; with ``idle``, such steps are bridged."""
    played = tasks(table, lambda row: bool(table.success[row]), idle)
    longest = max(len(episode) for task in played for episode in task.episodes)
    worth = {}
    for task in played:
        episodes = [e if end_of_longest or len(e) < longest else e[:-1] for e in task.episodes]
        edges = [edge for e in episodes for edge in (e if idle is None else without_idle(e))]
        if first:
            edges = [edge for edge in edges if edge.here != edge.there]
        value = flowed(edges, discount, first, floor)
        for episode, whole in zip(episodes, task.episodes, strict=True):
            for move in whole:
                gain = value.get(move.there, 0.0) - value.get(move.here, 0.0) if move in episode else move.reward_there
                worth[move.row] = gain - penalty(table, move.row)
    return compared(table, worth, scale_by_std)


def without_idle(episode: list[Move]) -> list[Move]:
    """Idle moves and stays are cut out; the next move begins where the first of them did."""
    kept, at = [], 0
    while at < len(episode):
        begun, reward_begun = episode[at].here, episode[at].reward_here
        if episode[at].idle or episode[at].there == begun:
            while at < len(episode) and (episode[at].idle or episode[at].there == begun):
                at += 1
            if at == len(episode):
                break
            reward_begun = episode[at].reward_here
        move = episode[at]
        kept.append(Move(move.row, begun, move.there, reward_begun, move.reward_there, move.idle))
        at += 1
    return kept


def flowed(edges: list[Move], discount: float, first: bool, floor: bool) -> dict[Hashable, float]:
    """V of each state: the reward that it keeps, or what a later one is worth, discounted."""
    reward: dict[Hashable, float] = {}
    for edge in edges:
        for state, got in ((edge.here, edge.reward_here), (edge.there, edge.reward_there)):
            if state not in reward:
                reward[state] = got
            elif not first:
                reward[state] = max(reward[state], got)
    value = {state: max(got, 0.0) if floor else got for state, got in reward.items()}
    for _ in range(1000):
        new = dict(value)
        for edge in edges:
            if edge.here != edge.there:
                new[edge.here] = max(new[edge.here], discount * value[edge.there])
        if new == value:
            break
        value = new
    return value
