"""The graph of the states that a group's episodes went through, and how far each is from success.

Shape letters: S = rows of the step table, V = nodes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from gigpo_lightning.algorithm.advantages import dense_ids
from gigpo_lightning.algorithm.grouping import Grouping, checked_groups
from gigpo_lightning.trajectory import StepTable, visit_order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateGraph:
    """One edge a step: from the state that the action was chosen in to the state that it led to.

    The last step of a successful trajectory leads to its episode group's goal. Any other last step leads to the state
    that the trajectory ended in, which other steps may start from. Where the table does not name it, it leads to a new
    node without edges.

    Attributes:
        source: Node that a step starts from, ``(S,)``.
        target: Node that it leads to, ``(S,)``.
        group: Episode group of each node, dense from 0, ``(V,)``.
        goals: The goal nodes: one for each episode group with a success.
    """

    source: Int64[ndarray, " S"]
    target: Int64[ndarray, " S"]
    group: Int64[ndarray, " V"]
    goals: Int64[ndarray, " goals"]

    def distances_to(self, offset: Float64[ndarray, " V"]) -> Float64[ndarray, " V"]:
        """Length of the shortest way from each node to an exit, one per step, the exit's own offset included.

        Args:
            offset: Cost of leaving the graph at each node, at least 0, in steps; infinite where one cannot, ``(V,)``.

        Returns:
            Distances in steps, ``(V,)``; infinite where no exit can be reached.
        """
        # One search backwards from a node beyond all exits. Its edges are one too long: a length of 0 would be no edge.
        num_nodes = len(self.group)
        exits = np.flatnonzero(np.isfinite(offset))
        steps = np.unique(self.target * num_nodes + self.source)  # parallel edges would be added up
        rows = np.r_[steps // num_nodes, np.full(len(exits), num_nodes)]
        columns = np.r_[steps % num_nodes, exits]
        lengths = np.r_[np.ones(len(steps)), offset[exits] + 1.0]
        backwards = csr_array((lengths, (rows, columns)), shape=(num_nodes + 1, num_nodes + 1))
        distance: Float64[ndarray, " V"] = dijkstra(backwards, indices=num_nodes)[:-1] - 1.0
        return distance


def state_graph(
    table: StepTable,
    step_group_id: Int64[ndarray, " S"],
    grouping: Grouping | None = None,
    won: Bool[ndarray, " S"] | None = None,
) -> StateGraph:
    """Join the trajectories of each episode group where they meet.

    Args:
        table: The rollout; a gap in a trajectory's ``step_index`` is not a step.
        step_group_id: The state of each step, dense from 0 and of one episode group each, ``(S,)``.
        grouping: What found these states; it says which of them an end is. Default: ``ExactGrouping()``.
        won: Whether a row's trajectory reached the goal, ``(S,)``; default: the table's ``success``.
    """
    won = table.success if won is None else won
    order = visit_order(table.trajectory_id, table.step_index)
    episode_group = dense_ids(table.episode_group_id)
    is_last = np.r_[np.diff(table.trajectory_id[order]) != 0, True]
    last = order[is_last]
    reached, lost = last[won[last]], last[~won[last]]
    source, ends = _nodes(table, step_group_id, grouping, lost)
    target = np.empty(len(table), dtype=np.int64)
    target[order[:-1]] = source[order[1:]]
    num_states = int(max(source.max(), ends.max(initial=0))) + 1
    groups_won, goal = np.unique(episode_group[reached], return_inverse=True)
    target[reached] = num_states + goal
    ends[ends < 0] = num_states + len(groups_won) + np.arange((ends < 0).sum())
    target[lost] = ends
    group = np.empty(int(max(num_states + len(groups_won), ends.max(initial=-1) + 1)), dtype=np.int64)
    group[source] = episode_group
    group[num_states : num_states + len(groups_won)] = groups_won
    group[ends] = episode_group[lost]
    return StateGraph(source=source, target=target, group=group, goals=num_states + np.arange(len(groups_won)))


def _nodes(
    table: StepTable, step_group_id: Int64[ndarray, " S"], grouping: Grouping | None, lost: Int64[ndarray, " lost"]
) -> tuple[Int64[ndarray, " S"], Int64[ndarray, " lost"]]:
    """The state of each step, ``(S,)``, and of each lost trajectory's end, ``(lost,)``: -1 where it is not known.

    Ends are grouped together with the states that actions were chosen in, as rows of their own.
    """
    ends = np.full(len(lost), -1)
    if table.next_anchor_key is None:
        return step_group_id, ends
    known = np.array([key is not None for key in table.next_anchor_key[lost].tolist()], dtype=bool)
    if not known.any():
        return step_group_id, ends
    nodes = checked_groups(grouping, table.with_ends(lost[known]))
    ends[known] = nodes[len(table) :]
    return nodes[: len(table)], ends
