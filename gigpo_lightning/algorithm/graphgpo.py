"""GraphGPO: step-level credit by the distance to success on the group's state graph (arXiv:2605.26684).

Shape letters: S = rows of the step table, V = nodes of the graph.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.grouping import Grouping, checked_groups
from gigpo_lightning.algorithm.returns import episode_returns
from gigpo_lightning.algorithm.state_graph import StateGraph, state_graph
from gigpo_lightning.algorithm.two_level import TwoLevelEstimator
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class GraphGPO(TwoLevelEstimator):
    """A step is worth 10·γ^d, with d the shortest known way to success from the state that it led to.

    All trajectories of an episode group are joined into one graph of states, so that a useful step counts even in an
    episode that failed. A state from which no episode succeeded is one step farther than the farthest of the others;
    where all fail, all states are alike. An invalid action's penalty is part of R(τ), and is taken from its own
    step's worth, as in its code; its published runs set ``scale_by_std``. A failed episode's last action leads to the
    state that it ended in, as in its code; where an older record does not name that state, it leads nowhere.

    Differs from its code in three defaults. Its code takes an episode for won if its return is above 0
    (``success_by_return``). It lets a similarity merge states in the graph alone, and compares only steps from equal
    states (``graph_grouping``). And its A_E has the mean and deviation over step rows, so that long episodes weigh
    more; here it has Eq. 3's, and no option.

    Raises:
        ValueError: If an argument is out of its range.
    """

    distance_discount: float = 0.1
    """γ, above 0 and at most 1: .1 for ALFWorld, .2 for WebShop and .8 for Sokoban in its paper."""
    relative_distance: bool = False
    """Use 10·γ^(d' − d + 1) instead, with d from the state before the step: an option of its code."""
    goal_return: float = 10.0
    """The 10, in units of reward."""
    success_by_return: bool = False
    """Take an episode for won if its rewards add up to more than 0, as its code does, instead of by ``success``."""
    graph_grouping: Grouping | None = None
    """Finds the graph's states, if other than ``grouping``, which finds the steps to compare. Its code's similarity is
    ``SimilarityGrouping`` here, with the default there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("distance_discount", self.distance_discount, 1e-9, 1.0)
        check_range("goal_return", self.goal_return)

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """10·γ^d(s'), or 10·γ^(d(s') − d(s) + 1), less the penalty, ``(S,)``."""
        won = episode_returns(table.reward, table.trajectory_id) > 0 if self.success_by_return else table.success
        if self.graph_grouping is None:
            graph = state_graph(table, step_group_id, self.grouping, won)
        else:
            graph = state_graph(table, checked_groups(self.graph_grouping, table), self.graph_grouping, won)
        distance = goal_distances(graph)
        exponent = distance[graph.target]
        if self.relative_distance:
            exponent = exponent - distance[graph.source] + 1.0
        worth: Float64[ndarray, " S"] = self.goal_return * self.distance_discount**exponent
        return worth - self.invalid_action_penalty * ~table.valid_action


def goal_distances(graph: StateGraph) -> Float64[ndarray, " V"]:
    """Steps from each node to its group's goal; where there is no way, one more than the group's farthest, ``(V,)``."""
    offset = np.full(len(graph.group), np.inf)
    offset[graph.goals] = 0.0
    distance = graph.distances_to(offset)
    reachable = np.isfinite(distance)
    farthest = np.zeros(graph.group.max() + 1)
    np.maximum.at(farthest, graph.group[reachable], distance[reachable])
    return np.where(reachable, distance, farthest[graph.group] + 1.0)
