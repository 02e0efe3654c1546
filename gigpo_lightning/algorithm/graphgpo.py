"""GraphGPO: step-level credit by the distance to success on the group's state graph (arXiv:2605.26684).

Shape letters: S = rows of the step table, V = nodes of the graph.
"""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.algorithm.advantages import (
    Credit,
    OrderedEstimator,
    combine,
    group_relative,
    trajectory_advantage,
)
from gigpo_lightning.algorithm.grouping import ExactGrouping, Grouping, checked_groups
from gigpo_lightning.algorithm.state_graph import StateGraph, state_graph
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


class GraphGPO(OrderedEstimator):
    """A step is worth 10·γ^d, with d the shortest known way to success from the state that it led to.

    All trajectories of an episode group are joined into one graph of states, so that a useful step counts even in an
    episode that failed. Steps from the same state are compared as in GiGPO (Eq. 7) and the episode level is added. A
    state from which nobody succeeded is one step farther than the farthest that somebody did from; where all fail, all
    states are alike. An invalid action's penalty is part of R(τ), and is taken from its own step's worth, as in its
    code. Differs from its code where a failed episode ends: the table does not name the state
    that its last action led to, so that action counts as leading nowhere.

    Args:
        step_advantage_weight: Of the step level.
        episode_advantage_weight: Of the episode level; 0 leaves the graph alone.
        distance_discount: γ, above 0 and at most 1: .1 for ALFWorld, .2 for WebShop and .8 for Sokoban in its paper.
        relative_distance: Use 10·γ^(d' − d + 1) instead, with d from the state before the step: an option of its code.
        goal_return: The 10, in units of reward.
        scale_by_std: Divide both levels by their groups' standard deviation; its published runs do.
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        grouping: Finds the states; default: ``ExactGrouping()``.
        own_step_penalty: Take the penalty times the share of invalid steps from R(τ), as in ``GiGPO``.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        step_advantage_weight: float = 1.0,
        episode_advantage_weight: float = 1.0,
        distance_discount: float = 0.1,
        relative_distance: bool = False,
        goal_return: float = 10.0,
        scale_by_std: bool = False,
        invalid_action_penalty: float = 0.1,
        grouping: Grouping | None = None,
        own_step_penalty: bool = False,
    ) -> None:
        check_range("step_advantage_weight", step_advantage_weight)
        check_range("episode_advantage_weight", episode_advantage_weight)
        check_range("distance_discount", distance_discount, 1e-9, 1.0)
        check_range("goal_return", goal_return)
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        self.step_advantage_weight = step_advantage_weight
        self.episode_advantage_weight = episode_advantage_weight
        self.distance_discount = distance_discount
        self.relative_distance = relative_distance
        self.goal_return = goal_return
        self.scale_by_std = scale_by_std
        self.invalid_action_penalty = invalid_action_penalty
        self.grouping: Grouping = ExactGrouping() if grouping is None else grouping
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute both levels for every row."""
        step_group_id = checked_groups(self.grouping, table)
        graph = state_graph(table, step_group_id)
        distance = goal_distances(graph)
        exponent = distance[graph.target]
        if self.relative_distance:
            exponent = exponent - distance[graph.source] + 1.0
        worth = self.goal_return * self.distance_discount**exponent
        worth -= self.invalid_action_penalty * ~table.valid_action
        return combine(
            trajectory_advantage(
                table,
                invalid_action_penalty=self.invalid_action_penalty,
                scale_by_std=self.scale_by_std,
                own_step_penalty=self.own_step_penalty,
            ),
            group_relative(worth, step_group_id, scale_by_std=self.scale_by_std),
            step_group_id,
            episode_advantage_weight=self.episode_advantage_weight,
            step_advantage_weight=self.step_advantage_weight,
        )


def goal_distances(graph: StateGraph) -> Float64[ndarray, " V"]:
    """Steps from each node to its group's goal; where there is no way, one more than the group's farthest, ``(V,)``."""
    offset = np.full(len(graph.group), np.inf)
    offset[graph.goals] = 0.0
    distance = graph.distances_to(offset)
    reachable = np.isfinite(distance)
    farthest = np.zeros(graph.group.max() + 1)
    np.maximum.at(farthest, graph.group[reachable], distance[reachable])
    return np.where(reachable, distance, farthest[graph.group] + 1.0)
