"""RewardFlow: step-level credit by values that flow backwards over the state graph (arXiv:2603.18859).

Shape letters: S = rows of the step table, V = nodes of the graph.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.algorithm.state_graph import StateGraph, state_graph
from gigpo_lightning.algorithm.two_level import TwoLevelEstimator
from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import StepTable


@dataclass(kw_only=True, eq=False)
class RewardFlow(TwoLevelEstimator):
    """A step is worth V(s') − V(s), where V(s) = max(r(s), γ·max V(s')) over the states that followed s.

    All trajectories of an episode group are joined into one graph of states; r(s) is the largest reward got on
    reaching s. A state that never led to a reward has V = 0, and negative rewards flow nowhere. An invalid
    action's penalty is part of R(τ), and is taken from its own step's worth. Differs from its code, which leaves the
    last step of a trajectory with its plain reward and strikes idle actions from the graph first: the way to the
    largest value takes none of them.

    Raises:
        ValueError: If an argument is out of its range.
    """

    value_discount: float = 0.9
    """γ of V, above 0 and below 1; .9 in its paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("value_discount", self.value_discount, 1e-9, 1 - 1e-9)

    def step_worth(self, table: StepTable, step_group_id: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
        """V(s') − V(s), less the penalty, ``(S,)``."""
        graph = state_graph(table, step_group_id)
        value = state_values(graph, table.reward, discount=self.value_discount)
        gain: Float64[ndarray, " S"] = value[graph.target] - value[graph.source]
        return gain - self.invalid_action_penalty * ~table.valid_action


def state_values(graph: StateGraph, rewards: Float64[ndarray, " S"], *, discount: float) -> Float64[ndarray, " V"]:
    """The fixed point of V(s) = max(r(s), γ·max V(s')), found by one shortest-path search.

    V(s) = max over u of r(u)·γ^d(s, u) = r_max·γ^D(s), where D(s) is the shortest way to leave the graph from s if
    leaving at u costs log(r_max / r(u)) / log(1 / γ) steps more, and r_max is the episode group's largest reward.

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
