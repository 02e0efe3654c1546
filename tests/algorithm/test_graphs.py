"""GraphGPO and RewardFlow: credit from the graph that a group's episodes make together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.algorithm import ExactGrouping, GraphGPO, RewardFlow, SimilarityGrouping
from gigpo_lightning.algorithm.graphgpo import goal_distances
from gigpo_lightning.algorithm.rewardflow import arrival_rewards, state_values
from gigpo_lightning.algorithm.state_graph import state_graph
from gigpo_lightning.trajectory import StepTable
from tests.algorithm import graph_oracle
from tests.algorithm.tables import ending, ending_tables, step_tables, table_of, valid, won

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
    values = state_values(graph, arrival_rewards(graph, np.stack([np.zeros(7), TABLE.reward], axis=1)), discount=0.5)
    assert {key: values[node] for key, node in zip(TABLE.anchor_key, graph.source, strict=True)} == pytest.approx(
        {"a": 1.25, "b": 2.5, "c": 5.0, "d": 1.25}
    )
    worth = RewardFlow(value_discount=0.5).estimate(TABLE).step_advantage[[1, 5]]
    np.testing.assert_allclose(worth, [1.875, -1.875])  # from b: 5 - 2.5 and 1.25 - 2.5


def test_a_partial_reward_at_the_end_of_a_lost_episode_flows_back() -> None:
    table = table_of((0, valid("ab", [0, 4])), (0, valid("ac", [0, 0])))
    assert RewardFlow().estimate(table).step_advantage[0] > 0


@given(step_tables() | ending_tables(), st.sampled_from([0.1, 0.5, 0.8]), st.booleans(), st.booleans(), st.booleans())
def test_graphgpo_equals_its_oracle(
    table: StepTable, discount: float, relative_distance: bool, scale_by_std: bool, success_by_return: bool
) -> None:
    estimator = GraphGPO(
        distance_discount=discount,
        relative_distance=relative_distance,
        scale_by_std=scale_by_std,
        success_by_return=success_by_return,
    )
    expected = graph_oracle.graphgpo(
        table,
        discount=discount,
        relative_distance=relative_distance,
        scale_by_std=scale_by_std,
        success_by_return=success_by_return,
    )
    np.testing.assert_allclose(estimator.estimate(table).step_advantage, expected, atol=1e-6)


@pytest.mark.slow
@settings(max_examples=200)
@given(
    step_tables() | ending_tables(),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 2**31),
)
def test_rewardflow_equals_its_oracle(
    table: StepTable, discount: float, first: bool, floor: bool, end_of_longest: bool, idle_seed: int | None
) -> None:
    idle = None if idle_seed is None else np.random.default_rng(idle_seed).random(len(table)) < 0.4
    estimator = RewardFlow(
        value_discount=discount,
        value_rule="first" if first else "largest",
        floor_at_zero=floor,
        end_of_longest=end_of_longest,
        bridge_idle=idle is not None,
    )
    expected = graph_oracle.rewardflow(
        table,
        discount=discount,
        first=first,
        floor=floor,
        end_of_longest=end_of_longest,
        scale_by_std=False,
        idle=None if idle is None else idle.tolist(),
    )
    scored = table if idle is None else replace(table, scores={"idle": idle.astype(float)})
    np.testing.assert_allclose(estimator.estimate(scored).step_advantage, expected, atol=1e-9)


CUT = won(table_of((0, valid("ab", [0, 10])), (0, valid("a", [0]))), 0)


def test_where_a_lost_episode_was_cut_is_a_state_like_any_other() -> None:
    # Both first steps lead to b, one from the goal: worth 10·.1 = 1 each.
    credit = GraphGPO(distance_discount=0.1, goal_return=10.0).estimate(ending(CUT, "won", "b"))
    np.testing.assert_allclose(credit.step_advantage, [0, 0, 0], atol=1e-12)


def test_where_no_record_says_it_the_last_step_of_a_lost_episode_leads_nowhere() -> None:
    # To b, 1 from the goal: 1; to an end one step farther than the farthest state, a at 2: 10·.1³ = .01.
    for table in (CUT, ending(CUT, "won", None)):
        credit = GraphGPO(distance_discount=0.1, goal_return=10.0).estimate(table)
        np.testing.assert_allclose(credit.step_advantage, [0.495, 0, -0.495], atol=1e-12)


def test_a_won_episode_s_last_step_leads_to_the_goal_whatever_its_last_state() -> None:
    np.testing.assert_array_equal(
        GraphGPO().estimate(ending(CUT, "a", "b")).advantage, GraphGPO().estimate(ending(CUT, "won", "b")).advantage
    )


def test_two_ends_of_one_task_may_be_one_state_and_of_two_tasks_never() -> None:
    table = won(table_of((0, valid("a", [0])), (0, valid("b", [0])), (1, valid("a", [0])), (1, valid("ab", [0, 1]))), 3)
    graph = state_graph(ending(table, "b", "b", "b", "won"), ExactGrouping().group(table))
    assert graph.target[0] == graph.target[1] == graph.source[1]
    assert graph.target[2] == graph.source[4] != graph.source[1]


def test_similar_states_may_be_one_in_the_graph_alone() -> None:
    # "a lamp" and "a lamb" are one node, from which the first episode won; only equal states are compared.
    rooms = table_of(
        (0, [("a hall", 0.0, True), ("a lamp", 10.0, True)]), (0, [("a hall", 0.0, True), ("a lamb", 0.0, True)])
    )
    table = ending(won(rooms, 0), "won", "elsewhere")
    alike = SimilarityGrouping(0.8)
    in_graph = GraphGPO(graph_grouping=alike).estimate(table)
    assert in_graph.step_advantage.tolist() == [0.0] * 4
    assert in_graph.step_group_id.tolist() == [0, 1, 0, 2]
    assert GraphGPO().estimate(table).step_advantage[0] > 0
    assert GraphGPO(grouping=alike).estimate(table).step_advantage[1] > 0


def test_an_end_is_alike_a_state_where_the_grouping_says_so() -> None:
    table = ending(
        won(table_of((0, valid(["hall", "a lamp"], [0, 10])), (0, valid(["hall"], [0]))), 0), "won", "a lamb"
    )
    assert not GraphGPO(grouping=SimilarityGrouping(0.8)).estimate(table).step_advantage.any()
    assert GraphGPO().estimate(table).step_advantage.any()


def test_success_may_be_told_by_the_return_as_in_its_code() -> None:
    partly = table_of((0, valid("a", [4])), (0, valid("a", [0])))
    assert not GraphGPO().estimate(partly).step_advantage.any()
    assert GraphGPO(success_by_return=True).estimate(partly).step_advantage[0] > 0


def test_the_first_reward_of_a_state_or_the_largest() -> None:
    # b is reached for 1, then for 3, and from it a later step won nothing: V(b) is 1 or 3, V(a) half of it.
    table = ending(table_of((0, valid("a", [1])), (0, valid("a", [3])), (0, valid("a", [0]))), "b", "b", "c")
    graph = state_graph(table, ExactGrouping().group(table))
    rewards = np.stack([np.zeros(3), table.reward], axis=1)
    for first, expected in ((True, 1.0), (False, 3.0)):
        recorded = arrival_rewards(graph, rewards, first=first)
        values = state_values(graph, recorded, discount=0.5)
        assert (values[graph.target[0]], values[graph.source[0]]) == pytest.approx((expected, expected / 2))


@pytest.mark.parametrize(("floor", "expected"), [(True, [0.0, 0.0]), (False, [-0.09, -0.1])])
def test_a_value_below_zero(floor: bool, expected: list[float]) -> None:
    # Each step costs .1: the values of b and c, one and no step before the end, with γ = .9; a started with 0.
    table = ending(table_of((0, valid("abc", [-0.1, -0.1, -0.1]))), "end")
    graph = state_graph(table, ExactGrouping().group(table))
    rewards = np.stack([[0.0, -0.1, -0.1], table.reward], axis=1)
    values = state_values(graph, arrival_rewards(graph, rewards, first=True), discount=0.9, floor_at_zero=floor)
    assert values[graph.target[[1, 2]]] == pytest.approx(expected)


def test_the_longest_episodes_of_all_tasks_may_lose_their_last_edge() -> None:
    # As in its code: no turn follows it there, so no success flows back, and the step is worth its plain reward.
    table = won(
        table_of((0, valid("ab", [0, 10])), (0, valid("a", [0])), (1, valid("a", [10])), (1, valid("a", [0]))), 0, 2
    )
    credit = RewardFlow(end_of_longest=False, value_discount=0.5).estimate(table)
    np.testing.assert_allclose(credit.step_advantage, [0, 0, 0, 5, -5])
    assert RewardFlow(end_of_longest=False).whole_batch
    assert not RewardFlow().whole_batch


BRIDGED = won(table_of((0, [("a", 0, True), ("b", 10, True)]), (0, [("a", 0, True)])), 0)


@pytest.mark.parametrize(
    ("bridge", "values", "advantages"), [(False, [0.9, 1, -8.1], [4.5, 0, -4.5]), (True, [-9, 10, -9], [0] * 3)]
)
def test_idle_actions_bridged_as_in_its_code(bridge: bool, values: list[float], advantages: list[float]) -> None:
    # a –look→ b –go→ goal (10), and a –…→ failure, γ = .9. Bridged, a leads to the goal, and b is worth 0: -9, +10, -9.
    table = replace(ending(BRIDGED, "won", "failure"), scores={"idle": np.array([1.0, 0.0, 0.0])})
    estimator = RewardFlow(value_discount=0.9, bridge_idle=bridge)
    assert estimator.step_worth(table, np.array([0, 1, 0])) == pytest.approx(values)
    np.testing.assert_allclose(estimator.estimate(table).step_advantage, advantages, atol=1e-12)


def test_to_bridge_idle_actions_somebody_has_to_say_which_they_are() -> None:
    with pytest.raises(ValueError, match=r"bridge_idle must find the score 'idle' .* add gigpo_lightning.scorers.Idle"):
        RewardFlow(bridge_idle=True).estimate(BRIDGED)


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
