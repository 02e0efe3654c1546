"""GraphGPO and RewardFlow: credit from the graph that a group's episodes make together."""

from collections import deque
from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import ExactGrouping, GraphGPO, RewardFlow
from gigpo_lightning.algorithm.graphgpo import goal_distances
from gigpo_lightning.algorithm.rewardflow import state_values
from gigpo_lightning.algorithm.state_graph import state_graph
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import step_tables, table_of, valid, won

# The first episode goes a-b-c and wins. The second gets to b as well, by way of d, but then turns back and loses.
WINNER, LOSER = valid("abc", [0, 0, 10]), valid("adba", [0, 0, 0, 0])
TABLE = won(table_of((0, WINNER), (0, LOSER)), 0)
DISTANCES = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 3.0}


def test_distances_by_hand() -> None:
    graph = state_graph(TABLE, ExactGrouping().group(TABLE))
    distance = goal_distances(graph)
    assert {key: distance[node] for key, node in zip(TABLE.anchor_key, graph.source, strict=True)} == DISTANCES


def test_graphgpo_by_hand() -> None:
    # From a: to b (2 from success), to d (3), and the last step, to nowhere (one more than the farthest, 4).
    # From b: to c (1) and back to a (3).
    credit = GraphGPO(distance_discount=0.5).estimate(TABLE)
    from_a = np.array([2.5, 1.25, 0.625]) - (2.5 + 1.25 + 0.625) / 3
    expected = [from_a[0], 1.875, 0.0, from_a[1], 0.0, -1.875, from_a[2]]
    np.testing.assert_allclose(credit.step_advantage, expected, atol=1e-12)
    np.testing.assert_array_equal(credit.episode_advantage, [5, 5, 5, -5, -5, -5, -5])


def test_a_useful_step_of_a_lost_episode_gets_credit() -> None:
    credit = GraphGPO(distance_discount=0.5, episode_advantage_weight=0.0).estimate(
        won(table_of((0, WINNER), (0, valid("ada", [0, 0, 0])), (0, valid("ab", [0, 0]))), 0)
    )
    assert credit.advantage[6] > 0  # from a to b, though the episode was lost


def test_relative_distances_are_those_of_its_code() -> None:
    credit = GraphGPO(distance_discount=0.5, relative_distance=True).estimate(TABLE)
    worth = 10 * 0.5 ** np.array([1 - 2 + 1, 3 - 2 + 1])  # from b: a step closer, a step farther
    np.testing.assert_allclose(credit.step_advantage[[1, 5]], worth - worth.mean())


def test_where_all_fail_the_graph_says_nothing() -> None:
    credit = GraphGPO(scale_by_std=True).estimate(table_of((0, WINNER), (0, LOSER)))
    assert not credit.step_advantage.any()


def test_rewardflow_by_hand() -> None:
    # V: c 10·.5 = 5, b 2.5, a 1.25, d 1.25; the goal 10, the losing end 0.
    graph = state_graph(TABLE, ExactGrouping().group(TABLE))
    values = state_values(graph, TABLE.reward, discount=0.5)
    assert {key: values[node] for key, node in zip(TABLE.anchor_key, graph.source, strict=True)} == pytest.approx(
        {"a": 1.25, "b": 2.5, "c": 5.0, "d": 1.25}
    )
    worth = RewardFlow(value_discount=0.5).estimate(TABLE).step_advantage[[1, 5]]
    np.testing.assert_allclose(worth, [1.875, -1.875])  # from b: 5 - 2.5 and 1.25 - 2.5


def test_a_partial_reward_at_the_end_of_a_lost_episode_flows_back() -> None:
    table = table_of((0, valid("ab", [0, 4])), (0, valid("ac", [0, 0])))
    assert RewardFlow().estimate(table).step_advantage[0] > 0


def edges(table: StepTable) -> list[tuple[Hashable, Hashable, float]]:
    """Where each step led, row by row: a state of its episode group, its goal, or the end of its trajectory."""
    found = []
    for i in range(len(table)):
        own = np.flatnonzero(table.trajectory_id == table.trajectory_id[i])
        later = own[table.step_index[own] == table.step_index[i] + 1]
        group = int(table.episode_group_id[i])
        if later.size:
            target: Hashable = (group, table.anchor_key[later[0]])
        elif table.success[i]:
            target = (group, "goal")
        else:
            target = (group, "end", int(table.trajectory_id[i]))
        found.append(((group, table.anchor_key[i]), target, float(table.reward[i])))
    return found


@given(step_tables())
def test_distances_equal_a_plain_search(table: StepTable) -> None:
    graph = state_graph(table, ExactGrouping().group(table))
    distance = goal_distances(graph)
    known = edges(table)
    reachable = reachable_nodes(table)
    for row, (source, target, _) in enumerate(known):
        for node, number in ((source, graph.source[row]), (target, graph.target[row])):
            if node in reachable:
                assert distance[number] == reachable[node]
            else:
                farthest = max((d for n, d in reachable.items() if n[0] == node[0]), default=0)  # type: ignore[index]
                assert distance[number] == farthest + 1


def reachable_nodes(table: StepTable) -> dict[Hashable, int]:
    """Breadth-first, backwards from every goal."""
    known = edges(table)
    distance: dict[Hashable, int] = {target: 0 for _, target, _ in known if target[1] == "goal"}  # type: ignore[index]
    queue = deque(distance)
    while queue:
        node = queue.popleft()
        for source, target, _ in known:
            if target == node and source not in distance:
                distance[source] = distance[node] + 1
                queue.append(source)
    return distance


@given(step_tables(), st.sampled_from([0.2, 0.9]))
def test_values_equal_value_iteration(table: StepTable, discount: float) -> None:
    graph = state_graph(table, ExactGrouping().group(table))
    values = state_values(graph, table.reward, discount=discount)
    known = edges(table)
    expected: dict[Hashable, float] = {}
    for _ in range(len(table) + 2):
        for source, target, reward in known:
            expected[target] = max(expected.get(target, 0.0), reward, 0.0)
            expected[source] = max(expected.get(source, 0.0), discount * expected[target])
    for row, (source, target, _) in enumerate(known):
        assert values[graph.source[row]] == pytest.approx(expected[source], abs=1e-9)
        assert values[graph.target[row]] == pytest.approx(expected[target], abs=1e-9)


def test_with_a_reward_for_success_alone_both_say_the_same() -> None:
    # Where success can be reached from everywhere, V(s') - V(s) is 10·γ^d less what all steps from s share.
    table = won(table_of((0, valid("abc", [0, 0, 10])), (0, valid("adbabc", [0, 0, 0, 0, 0, 10]))), 0, 1)
    graph, flow = GraphGPO(distance_discount=0.7).estimate(table), RewardFlow(value_discount=0.7).estimate(table)
    np.testing.assert_allclose(graph.step_advantage, flow.step_advantage, atol=1e-12)


def test_a_gap_in_a_trajectory_is_not_a_step() -> None:
    gappy = TABLE.take([0, 2, 3, 4, 5, 6])
    graph = state_graph(gappy, ExactGrouping().group(gappy))
    assert graph.target[0] == graph.source[1]


@pytest.mark.parametrize("discount", [0.0, 1.0, 1.5])
def test_a_value_discount_without_meaning_is_refused(discount: float) -> None:
    with pytest.raises(ValueError, match="value_discount must be in"):
        RewardFlow(value_discount=discount)


def test_a_distance_discount_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="distance_discount must be in"):
        GraphGPO(distance_discount=0.0)
