"""RewardFlow: step-level credit by values that flow backwards over the state graph (arXiv:2603.18859).

Shape letters: S = rows of the step table, V = nodes of the graph.
"""

import math

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


class RewardFlow(OrderedEstimator):
    """A step is worth V(s') − V(s), where V(s) = max(r(s), γ·max V(s')) over the states that followed s.

    All trajectories of an episode group are joined into one graph of states; r(s) is the largest reward that anybody
    got on reaching s. Steps from the same state are compared as in GiGPO (Eq. 7) and the episode level is added. A
    state from which nobody got a reward has V = 0, and negative rewards flow nowhere. An invalid action's penalty is
    part of R(τ), and is taken from its own step's worth. Differs from its code, which leaves the last step of a
    trajectory with its plain reward and strikes idle actions from the graph first: the way to the largest value takes
    none of them.

    Args:
        step_advantage_weight: ω of Eq. 8.
        value_discount: γ of V, above 0 and below 1; .9 in its paper.
        scale_by_std: Divide both levels by their groups' standard deviation.
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        grouping: Finds the states; default: ``ExactGrouping()``.
        own_step_penalty: Take the penalty times the share of invalid steps from R(τ), as in ``GiGPO``.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        step_advantage_weight: float = 1.0,
        value_discount: float = 0.9,
        scale_by_std: bool = False,
        invalid_action_penalty: float = 0.1,
        grouping: Grouping | None = None,
        own_step_penalty: bool = False,
    ) -> None:
        check_range("step_advantage_weight", step_advantage_weight)
        check_range("value_discount", value_discount, 1e-9, 1 - 1e-9)
        check_range("invalid_action_penalty", invalid_action_penalty, why="it is subtracted")
        self.step_advantage_weight = step_advantage_weight
        self.value_discount = value_discount
        self.scale_by_std = scale_by_std
        self.invalid_action_penalty = invalid_action_penalty
        self.grouping: Grouping = ExactGrouping() if grouping is None else grouping
        self.own_step_penalty = own_step_penalty

    def estimate_in_order(self, table: StepTable) -> Credit:
        """Compute both levels for every row."""
        step_group_id = checked_groups(self.grouping, table)
        graph = state_graph(table, step_group_id)
        value = state_values(graph, table.reward, discount=self.value_discount)
        worth = value[graph.target] - value[graph.source] - self.invalid_action_penalty * ~table.valid_action
        return combine(
            trajectory_advantage(
                table,
                invalid_action_penalty=self.invalid_action_penalty,
                scale_by_std=self.scale_by_std,
                own_step_penalty=self.own_step_penalty,
            ),
            group_relative(worth, step_group_id, scale_by_std=self.scale_by_std),
            step_group_id,
            step_advantage_weight=self.step_advantage_weight,
        )


def state_values(graph: StateGraph, rewards: Float64[ndarray, " S"], *, discount: float) -> Float64[ndarray, " V"]:
    """The fixed point of V(s) = max(r(s), γ·max V(s')), found by one shortest-path search.

    The largest r(u)·γ^d over all u at a distance d is what the nearest exit says, where leaving at u costs
    log(r_max / r(u)) / log(1 / γ) steps, with r_max the episode group's largest.

    Args:
        graph: Of the states.
        rewards: Of each step, got on reaching its target, ``(S,)``.
        discount: γ, above 0 and below 1.

    Returns:
        Values of the nodes, at least 0, in units of reward, ``(V,)``.
    """
    reward = np.zeros(len(graph.group))
    np.maximum.at(reward, graph.target, rewards)
    largest = np.zeros(graph.group.max() + 1)
    np.maximum.at(largest, graph.group, reward)
    largest = largest[graph.group]
    offset = np.full(len(reward), np.inf)
    paid = reward > 0
    offset[paid] = (np.log(largest[paid]) - np.log(reward[paid])) / -math.log(discount)
    values: Float64[ndarray, " V"] = largest * discount ** graph.distances_to(offset)
    return values
