"""GRAFT: credit by what states are worth on the graph of a task ("Back to the definition", Yao et al. 2026).

Shape letters: S = rows of the step table, E = steps of some of its tasks, V = nodes of their graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import spsolve

from gigpo_lightning.algorithm.advantages import Credit, OrderedEstimator, combine, dense_ids, group_relative
from gigpo_lightning.algorithm.grouping import by_first_visit, checked_groups
from gigpo_lightning.algorithm.hop_sets import HopSets
from gigpo_lightning.algorithm.two_level import steps_left
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable

_BLOCK = 8192  # steps of a block of tasks: its matrices stay small, whatever the size of the table
_LEAST_WEIGHT = 1e-18  # of a hop: gains are between -1 and 1, so that what lies beyond is lost in rounding
_ROUNDING = 1e-12  # values are no more exact than that
_EPS = 1e-6


@dataclass(kw_only=True, eq=False)
class GRAFT(OrderedEstimator):
    """A_t = γ·V(s') − V(s) + Σ_k (γλ)^k·(mean gain of the k-th hop on), compared among the steps from one state.

    All episodes of a task make one graph of states. V of a state that an episode ended in is the share of successes
    among the episodes that ended there; of any other state it is the mean of γ·V(s') over the steps that left it. The
    k-th hop is all steps from the states that can be reached from s' in exactly k − 1 steps; there are as many hops as
    the episode had steps to come. A step that is alone in its state gets A/(abs(A) + ε). There is no episode level, and
    no reward and no penalty enters. It goes with ``SequenceRatio`` and ``aggregation: step``.

    The paper does not say what a state is worth that one episode ended in and another went on from. Here it keeps its
    mean outcome, and hops go on through it. As V of any other state is the mean over the very steps that leave it, the
    mean gain of a hop is 0 but for such states: λ matters where episodes went on through the ends of others.

    Raises:
        ValueError: If an argument is out of its range; of a table, if it does not say where every episode ended.
    """

    discount: float = 0.99
    """γ, above 0 and below 1."""
    trace_decay: float = 0.95
    """λ, between 0 and 1: .95 for ALFWorld, .8 for WebShop, .6 for search in its paper."""
    normalise: bool = True
    """Centre, and divide by the standard deviation, among the steps from one state. False is an ablation of its paper,
    which lost 25 points on ALFWorld."""

    def __post_init__(self) -> None:
        check_range("discount", self.discount, 1e-9, 1 - 1e-9)
        check_range("trace_decay", self.trace_decay, 0.0, 1.0)

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute every row's advantage; it is all of ``step_advantage``."""
        state = checked_groups(None, table)
        source, target = _nodes(table)
        left = steps_left(table)
        advantage = np.empty(len(table))
        task = dense_ids(table.episode_group_id)
        for rows in _blocks(task):
            _, nodes = np.unique(np.r_[source[rows], target[rows]], return_inverse=True)
            start, end = np.split(nodes, 2)
            graph = OutcomeGraph(source=start, target=end, left=left[rows], task=dense_ids(task[rows]))
            value = graph.values(table.success[rows], discount=self.discount)
            gain = self.discount * value[graph.target] - value[graph.source]
            gain[np.abs(gain) < _ROUNDING] = 0.0
            advantage[rows] = gain + graph.traces(gain, decay=self.discount * self.trace_decay)
        if self.normalise:
            alone = np.bincount(state)[state] == 1
            compared = group_relative(advantage, state, scale_by_std=True, eps=_EPS)
            advantage = np.where(alone, advantage / (np.abs(advantage) + _EPS), compared)
        return combine(np.zeros(len(table)), advantage, state)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutcomeGraph:
    """One edge a step, from the state that it was taken in to the state that it led to.

    Attributes:
        source: Node that a step starts from, ``(E,)``.
        target: Node that it leads to, ``(E,)``; nodes are numbered from 0 without gaps.
        left: Steps of its episode from each step on, the step included, ``(E,)``.
        task: Task of the step, dense from 0, ``(E,)``; no edge leads from one to another.
    """

    source: Int64[ndarray, " E"]
    target: Int64[ndarray, " E"]
    left: Int64[ndarray, " E"]
    task: Int64[ndarray, " E"]

    @property
    def num_nodes(self) -> int:
        """V."""
        return int(max(self.source.max(), self.target.max())) + 1

    def values(self, success: Bool[ndarray, " E"], *, discount: float) -> Float64[ndarray, " V"]:
        """The mean outcome of the episodes that end in a node; of any other the mean of γ·V over its edges, ``(V,)``.

        Args:
            success: Of the step's episode, ``(E,)``.
            discount: γ, below 1.
        """
        last = self.left == 1
        endings = np.bincount(self.target[last], minlength=self.num_nodes)
        won = np.bincount(self.target[last & success], minlength=self.num_nodes)
        value: Float64[ndarray, " V"] = won / np.maximum(endings, 1)
        inner = endings == 0
        edges = np.flatnonzero(inner[self.source])
        if not edges.size:
            return value
        place = np.cumsum(inner) - 1  # of an inner node in the system of equations
        size = int(inner.sum())
        source, target = place[self.source[edges]], self.target[edges]
        share = discount / np.bincount(source)[source]
        known = np.bincount(source, share * value[target], minlength=size)  # inner nodes are still 0
        within = inner[target]
        onwards = csc_array((share[within], (source[within], place[target[within]])), shape=(size, size))
        # In the natural order no task's rounding depends on another's states.
        system = csc_array(eye_array(size, format="csc") - onwards)
        value[inner] = spsolve(system, known, permc_spec="NATURAL", use_umfpack=False)
        return value

    def traces(self, gain: Float64[ndarray, " E"], *, decay: float) -> Float64[ndarray, " E"]:
        """Σ_k decay^k·(mean gain of all edges of the k-th hop from a step's target), over its steps to come, ``(E,)``.

        Args:
            gain: Of each edge, ``(E,)``.
            decay: γλ, below 1.
        """
        trace = np.zeros(len(gain))
        is_end = np.bincount(self.target[self.left == 1], minlength=self.num_nodes) > 0
        through = is_end[self.source]  # elsewhere the gains of a node's edges add up to 0
        rows = np.argsort(-self.left, kind="stable")  # those with most hops first
        rows = rows[self.left[rows] > 1]
        if not through.any() or not rows.size:
            return trace
        hops, weight = self.left[rows] - 1, 1.0
        gains = np.bincount(self.source, gain * through, minlength=self.num_nodes)
        sets, mean = HopSets(self.source, self.target, self.task), np.zeros(self.num_nodes)
        edges = sets.digits(np.bincount(self.source, minlength=self.num_nodes))
        for hop in range(1, int(hops[0]) + 1):
            weight *= decay
            if weight < _LEAST_WEIGHT:
                break
            if not sets.settled:
                mean = sets.sums(gains) / np.maximum(sets.counts(edges), 1)
                sets.advance()
            count = np.searchsorted(-hops, -hop, side="right")
            trace[rows[:count]] += weight * mean[self.target[rows[:count]]]
        return trace


def _nodes(table: StepTable) -> tuple[Int64[ndarray, " S"], Int64[ndarray, " S"]]:
    """Nodes that each step starts from and leads to, numbered by their first visit.

    Raises:
        ValueError: If it is not known where an episode ended.
    """
    reached = table.next_anchor_key
    if reached is None:
        raise ValueError(
            "column next_anchor_key must say where every step led, but the table has none: episodes of older records "
            "do not say which state they ended in"
        )
    for row in np.flatnonzero(steps_left(table) == 1).tolist():
        if reached[row] is None:
            raise ValueError(
                "column next_anchor_key must say where every episode ended, got None at the end of trajectory "
                f"{table.trajectory_id[row]}"
            )
    keys = [*table.anchor_key.tolist(), *reached.tolist()]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    states = np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
    tasks = dense_ids(table.episode_group_id)
    codes = np.r_[tasks, tasks] * len(numbers) + states
    visits = by_first_visit(codes.reshape(2, -1).T.ravel())
    return visits[::2], visits[1::2]


def _blocks(tasks: Int64[ndarray, " S"]) -> Iterator[Int64[ndarray, " rows"]]:
    """The rows of some whole tasks at a time, in their order."""
    block = (np.cumsum(np.bincount(tasks)) - 1) // _BLOCK
    of_row = block[tasks]
    rows = np.argsort(of_row, kind="stable")
    yield from np.split(rows, np.flatnonzero(np.diff(of_row[rows])) + 1)
