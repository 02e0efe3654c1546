"""RewardFlow: step-level credit by values that flow backwards over the state graph (arXiv:2603.18859).

Shape letters: S = rows of the step table, E = edges that values flow over, V = nodes of the graph.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from gigpo_lightning.algorithm.state_graph import StateGraph, state_graph
from gigpo_lightning.algorithm.two_level import TwoLevelEstimator
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class RewardFlow(TwoLevelEstimator):
    """A step is worth V(s') − V(s), where V(s) = max(r(s), γ·max V(s')) over the states that followed s.

    All trajectories of an episode group are joined into one graph of states; r(s) is the reward got on reaching s, 0
    where an episode started. A state that never led to a reward has V = 0. A failed episode's last action leads to the
    state that it ended in; where an older record does not name that state, it leads nowhere. An invalid action's
    penalty is part of R(τ), and is taken from its own step's worth.

    Differs from its code in four defaults. Of several rewards got on reaching a state its code keeps the first
    (``value_rule``), also a negative one (``floor_at_zero``). The longest episodes of its batch, which no turn follows,
    lose their last edge there, and that step is worth its plain reward (``end_of_longest``). And in ALFWorld its code
    bridges idle actions: A → B → C becomes A → C if the first step was idle, and B is worth 0 (``bridge_idle``).
    A won episode's last step leads to the goal, as to the "You Won!" of its code, whatever its last observation says.

    Raises:
        ValueError: If an argument is out of its range.
    """

    value_discount: float = 0.9
    """γ of V, above 0 and below 1; .9 in its paper."""
    value_rule: Literal["largest", "first"] = "largest"
    """Which of the rewards got on reaching a state r(s) is; "first" in its code, in the order of the episodes, and
    without the steps that stay where they are."""
    floor_at_zero: bool = True
    """Let no value be negative; False in its code."""
    end_of_longest: bool = True
    """Treat the last step of the table's longest episodes as any other; False as in its code. That compares tasks, so
    that a run of several ranks is refused."""
    bridge_idle: bool = False
    """Bridge the steps whose score ``idle`` is above 0, as its code does in ALFWorld, where
    ``gigpo_lightning.scorers.IdleActions`` gives that score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("value_discount", self.value_discount, 1e-9, 1 - 1e-9)
        if self.value_rule not in ("largest", "first"):
            raise ValueError(f"value_rule must be 'largest' or 'first', got {self.value_rule!r}")

    @property
    def whole_batch(self) -> bool:
        """Whether episodes of other tasks matter: the longest ones of all."""
        return not self.end_of_longest

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """V(s') − V(s), or the plain reward where a step has no edge, less the penalty, ``(S,)``."""
        graph = state_graph(table, step_group_id, self.grouping)
        has_edge = np.ones(len(table), dtype=bool) if self.end_of_longest else ~_ends_of_longest(table.trajectory_id)
        flow, rewards = self._edges(table, graph, has_edge)
        recorded = arrival_rewards(flow, rewards, first=self.value_rule == "first")
        value = state_values(flow, recorded, discount=self.value_discount, floor_at_zero=self.floor_at_zero)
        gain = np.where(has_edge, value[graph.target] - value[graph.source], table.reward)
        return gain - self.invalid_action_penalty * ~table.valid_action

    def _edges(
        self, table: StepTable, graph: StateGraph, has_edge: Bool[ndarray, " S"]
    ) -> tuple[StateGraph, Float64[ndarray, "E 2"]]:
        """The graph of the edges that values flow over; the rewards got on reaching each one's source and target."""
        starts = np.r_[True, np.diff(table.trajectory_id) != 0]
        rewards = np.stack([np.where(starts, 0.0, np.roll(table.reward, 1)), table.reward], axis=1)
        source, rows = graph.source, np.flatnonzero(has_edge)
        if self.bridge_idle:
            if "idle" not in table.scores:
                raise ValueError(
                    "bridge_idle must find the score 'idle' of every step, but the table has none: add "
                    "gigpo_lightning.scorers.IdleActions to data.init_args.scorers"
                )
            source, rows = bridged(graph, table.scores["idle"] > 0, starts, has_edge)
        if self.value_rule == "first":  # its code strikes steps that stay before it looks for the first reward
            rows = rows[source[rows] != graph.target[rows]]
        return replace(graph, source=source[rows], target=graph.target[rows]), rewards[rows]


def _ends_of_longest(trajectory_id: Int64[ndarray, " S"]) -> Bool[ndarray, " S"]:
    """Whether a row is the last of an episode that no other is longer than, ``(S,)``; rows are in visit order."""
    last = np.flatnonzero(np.r_[np.diff(trajectory_id) != 0, True])
    length = np.diff(np.r_[-1, last])
    ends = np.zeros(len(trajectory_id), dtype=bool)
    ends[last[length == length.max()]] = True
    return ends


def bridged(
    graph: StateGraph, idle: Bool[ndarray, " S"], starts: Bool[ndarray, " S"], has_edge: Bool[ndarray, " S"]
) -> tuple[Int64[ndarray, " S"], Int64[ndarray, " E"]]:
    """Cut idle steps out, and let the next other step start where the first of them did.

    A step that does not leave its state is idle as well. After an idle step, so is one that leads back to where that
    one started, and none that merely stays, as in its code.

    Args:
        graph: One edge a step, in visit order.
        idle: Whether a step did nothing, ``(S,)``.
        starts: Whether a trajectory starts with it, ``(S,)``.
        has_edge: Whether it has an edge at all, ``(S,)``.

    Returns:
        The node that each step starts from, ``(S,)``, and the rows that are left, ``(E,)``.
    """
    source, rows, waiting = graph.source.copy(), [], -1  # waiting: where the idle steps before this one started
    steps = zip(graph.source.tolist(), graph.target.tolist(), idle.tolist(), starts.tolist(), strict=True)
    for row, (here, there, does_nothing, is_first) in enumerate(steps):
        begun = here if is_first or waiting < 0 else waiting
        if does_nothing or there == begun:
            waiting = begun
            continue
        source[row], waiting = begun, -1
        rows.append(row)
    left = np.array(rows, dtype=np.int64)
    return source, left[has_edge[left]]


def arrival_rewards(
    flow: StateGraph, rewards: Float64[ndarray, "E 2"], *, first: bool = False
) -> Float64[ndarray, " V"]:
    """The reward r(s) got on reaching each node: the largest, or the first in the order of the edges.

    Args:
        flow: Its edges in visit order.
        rewards: Got on reaching each edge's source, 0 where an episode started there, and its target.
        first: Take the first instead of the largest.

    Returns:
        Rewards of the nodes, 0 where none was reached, ``(V,)``.
    """
    visited = np.stack([flow.source, flow.target], axis=1).ravel()  # source, target, source, target, ...
    got = rewards.ravel()
    reward = np.full(len(flow.group), -np.inf)
    if first:
        nodes, at = np.unique(visited, return_index=True)
        reward[nodes] = got[at]
    else:
        np.maximum.at(reward, visited, got)
    return np.where(np.isinf(reward), 0.0, reward)


def state_values(
    flow: StateGraph, reward: Float64[ndarray, " V"], *, discount: float, floor_at_zero: bool = True
) -> Float64[ndarray, " V"]:
    """The fixed point of V(s) = max(r(s), γ·max V(s')), found by one shortest-path search.

    V(s) = max over u of r(u)·γ^d(s, u) = r_max·γ^D(s), where D(s) is the shortest way to leave the graph from s if
    leaving at u costs log(r_max / r(u)) / log(1 / γ) steps more, and r_max is the episode group's largest reward.

    Args:
        flow: The edges that values flow over.
        reward: r of each node, in units of reward, ``(V,)``.
        discount: γ, above 0 and below 1.
        floor_at_zero: Let no value be negative. Otherwise a state from which only negative rewards were reached has
            the largest of them, discounted; the limit 0 where a way leads back to itself.

    Returns:
        Values of the nodes, in units of reward, ``(V,)``.
    """
    largest = np.zeros(flow.group.max() + 1)
    np.maximum.at(largest, flow.group, reward)
    largest = largest[flow.group]
    offset = np.full(len(reward), np.inf)
    paid = reward > 0
    offset[paid] = (np.log(largest[paid]) - np.log(reward[paid])) / -math.log(discount)
    distance = flow.distances_to(offset)
    values: Float64[ndarray, " V"] = largest * discount**distance
    if floor_at_zero or not (reward < 0).any():
        return values
    return np.where(np.isfinite(distance), values, _values_below_zero(flow, np.minimum(reward, 0.0), discount))


def _values_below_zero(flow: StateGraph, reward: Float64[ndarray, " V"], discount: float) -> Float64[ndarray, " V"]:
    """The fixed point where no reward is positive, ``(V,)``."""
    moves = flow.source != flow.target  # to stay is not to lead back
    source, target, num_nodes = flow.source[moves], flow.target[moves], len(reward)
    edges = csr_array((np.ones(len(source)), (source, target)), shape=(num_nodes, num_nodes))
    component = connected_components(edges, connection="strong")[1]
    on_cycle = np.bincount(component)[component] > 1
    at_zero = np.isfinite(flow.distances_to(np.where(on_cycle | (reward == 0), 0.0, np.inf)))
    values = np.where(at_zero, 0.0, reward)
    left = ~at_zero[source]  # no way leads back: as many rounds as the longest way has steps
    source, target = source[left], target[left]
    while True:
        better = values.copy()
        np.maximum.at(better, source, discount * values[target])
        if np.array_equal(better, values):
            return values
        values = better
