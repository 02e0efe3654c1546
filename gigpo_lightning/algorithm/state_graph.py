"""The graph of the states that a group's episodes went through, and how far each is from success.

Shape letters: S = rows of the step table, V = nodes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from gigpo_lightning.algorithm.advantages import dense_ids
from gigpo_lightning.trajectory import StepTable, visit_order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateGraph:
    """One edge a step: from the state that the action was chosen in to the state that it led to.

    The last step of a successful trajectory leads to its episode group's goal; any other last step to a new node
    without edges, because the table does not say which state it reached.

    Attributes:
        source: Node that a step starts from, its anchor group, ``(S,)``.
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


def state_graph(table: StepTable, step_group_id: Int64[ndarray, " S"]) -> StateGraph:
    """Join the trajectories of each episode group where they meet.

    Args:
        table: The rollout; a gap in a trajectory's ``step_index`` is not a step.
        step_group_id: The state of each step, dense from 0 and of one episode group each, ``(S,)``.
    """
    order = visit_order(table.trajectory_id, table.step_index)
    episode_group = dense_ids(table.episode_group_id)
    is_last = np.r_[np.diff(table.trajectory_id[order]) != 0, True]
    target = np.empty(len(table), dtype=np.int64)
    target[order[:-1]] = step_group_id[order[1:]]
    last = order[is_last]
    num_states = int(step_group_id.max()) + 1
    won, lost = last[table.success[last]], last[~table.success[last]]
    groups_won, goal = np.unique(episode_group[won], return_inverse=True)
    target[won] = num_states + goal
    target[lost] = num_states + len(groups_won) + np.arange(len(lost))
    group = np.empty(num_states + len(groups_won) + len(lost), dtype=np.int64)
    group[step_group_id] = episode_group
    group[num_states:] = np.r_[groups_won, episode_group[lost]]
    goals = num_states + np.arange(len(groups_won))
    return StateGraph(source=step_group_id, target=target, group=group, goals=goals)
