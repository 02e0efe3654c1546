from typing import Any

import numpy as np
import pytest

from gigpo_lightning.trajectory import StepTable
from tests.episodes import group, step, trajectory

GROUPS = [
    group(
        trajectory(step(anchor_key="a"), step(anchor_key="b", reward=1.0, policy_version=3), success=True),
        trajectory(step(anchor_key="a", valid_action=False)),
    ),
    group(trajectory(step(anchor_key=("x", 1)), step(anchor_key=("x", 2)))),
]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("episode_group_id", [0, 0, 0, 1, 1]),
        ("trajectory_id", [0, 0, 1, 2, 2]),
        ("step_index", [0, 1, 0, 0, 1]),
        ("reward", [0.0, 1.0, 0.0, 0.0, 0.0]),
        ("valid_action", [True, True, False, True, True]),
        ("success", [True, True, False, False, False]),
        ("policy_version", [0, 3, 0, 0, 0]),
    ],
)
def test_groups_become_rows_step_by_step(column: str, values: list[Any]) -> None:
    np.testing.assert_array_equal(getattr(StepTable.from_groups(GROUPS), column), values)


def test_anchors_stay_the_objects_they_were() -> None:
    assert StepTable.from_groups(GROUPS).anchor_key.tolist() == ["a", "b", "a", ("x", 1), ("x", 2)]


ENDING = group(
    trajectory(step(anchor_key="a"), step(anchor_key="b"), final_anchor=("end", 1)), trajectory(step(anchor_key="b"))
)


def test_each_step_leads_to_the_next_ones_anchor_and_the_last_to_the_final_one() -> None:
    assert StepTable.from_groups([ENDING]).next_anchor_key.tolist() == ["b", ("end", 1), None]  # type: ignore[union-attr]


def test_where_no_end_is_known_the_column_is_absent() -> None:
    table = StepTable.from_groups(GROUPS)
    assert table.next_anchor_key is None
    assert table.take([0]).next_anchor_key is None


def test_where_an_action_led_follows_its_row() -> None:
    backwards = StepTable.from_groups([ENDING]).take([2, 1, 0])
    assert backwards.next_anchor_key.tolist() == [None, ("end", 1), "b"]  # type: ignore[union-attr]
    ordered = backwards.in_visit_order()[0]
    assert ordered.next_anchor_key.tolist() == ["b", ("end", 1), None]  # type: ignore[union-attr]


def test_scores_of_the_environment_reach_the_table_with_gaps_where_a_step_has_none() -> None:
    scored = group(trajectory(step(scores={"progress": 0.5}), step(), step(scores={"progress": 1.0, "praise": 2.0})))
    scores = StepTable.from_groups([scored], {"judge": [1.0, 2.0, 3.0]}).scores
    np.testing.assert_array_equal(scores["progress"], [0.5, np.nan, 1.0])
    np.testing.assert_array_equal(scores["praise"], [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(scores["judge"], [1.0, 2.0, 3.0])


def test_two_sources_of_one_score_are_refused() -> None:
    scored = group(trajectory(step(scores={"judge": 0.5})))
    with pytest.raises(ValueError, match=r"scores\['judge'\] must have one source, but info\['scores'\] of the"):
        StepTable.from_groups([scored], {"judge": [1.0]})


def test_no_groups_make_a_table_without_rows() -> None:
    assert len(StepTable.from_groups([])) == 0


def test_the_return_of_an_episode_is_the_sum_of_its_rewards() -> None:
    assert trajectory(step(reward=1.0), step(reward=2.5)).episode_return == 3.5


def test_the_same_rewards_in_another_order_are_the_same_return_to_the_last_bit() -> None:
    rewards = [0.1, 0.2, 0.3, 0.7]
    one, other = (trajectory(*(step(reward=r) for r in order)) for order in (rewards, rewards[::-1]))
    assert one.episode_return == other.episode_return


def objects(*entries: Any) -> np.ndarray:
    """An array of any objects."""
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def columns(**changes: Any) -> dict[str, Any]:
    """Two trajectories of two steps in one group, with some columns changed."""
    return {
        "episode_group_id": np.zeros(4, int),
        "trajectory_id": np.array([0, 0, 1, 1]),
        "step_index": np.array([0, 1, 0, 1]),
        "anchor_key": np.array(["a", "b", "a", "b"], dtype=object),
        "reward": np.zeros(4),
        "valid_action": np.ones(4, bool),
        "success": np.zeros(4, bool),
        "policy_version": np.zeros(4, int),
        **changes,
    }


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("reward", np.array([0.0, 0.0, np.nan, 0.0]), "column reward must be finite, got nan in row 2"),
        ("reward", np.array([0.0, np.inf, 0.0, 0.0]), "column reward must be finite, got inf in row 1"),
        (
            "reward",
            np.array([0.0, "much", 0.0, 0.0], dtype=object),
            "column reward must be float64, got 'much' in row 1",
        ),
        ("step_index", np.array([0, -1, 0, 1]), "column step_index must be >= 0, got -1 in row 1"),
        ("step_index", np.array([0, 1, 1, 1]), "trajectory 1 step 1 appears again in row 3"),
        ("step_index", np.array([0.0, 0.5, 0.0, 1.0]), r"column step_index must be int64, got .*0\.5.* in row 1"),
        ("step_index", np.array([0.0, 1.0, np.nan, 1.0]), r"column step_index must be int64, got .*nan.* in row 2"),
        (
            "episode_group_id",
            np.array([0.0, 0.0, 0.0, np.nan]),
            r"must be int64, got .*nan.* in row 3",
        ),
        ("episode_group_id", np.array([False, False, True, True]), r"must be int64, got .*False.* in row 0"),
        (
            "trajectory_id",
            np.array([0, 0, 1, 2**63], dtype=np.uint64),
            "must be int64, got .*775808.* row 3",
        ),
        ("trajectory_id", objects(0, 0, 1, 2**70), "trajectory_id must be int64, got 1180591620717411303424 in row 3"),
        ("reward", objects(1.0, [2.0], 1.0, 1.0), r"column reward must be float64, got \[2.0\] in row 1"),
        (
            "reward",
            np.ma.masked_array(np.zeros(4), [0, 1, 0, 0]),
            "reward must have a value in every row",
        ),
        ("anchor_key", np.array("a", dtype=object), r"column anchor_key must be one-dimensional, got shape \(\)"),
        ("trajectory_id", np.array([0, 0, 1, -7]), "column trajectory_id must be >= 0, got -7 in row 3"),
        ("episode_group_id", np.array([0, 0, -1, -1]), "column episode_group_id must be >= 0, got -1 in row 2"),
        ("episode_group_id", np.array([0, 0, 1, None], dtype=object), "must be int64, got None in row 3"),
        ("episode_group_id", np.array([0, 0, 0, 1]), "episode_group_id .* trajectory 1 changes it in row 3"),
        ("success", np.array([True, False, True, True]), "success .* trajectory 0 changes it in row 1"),
        ("valid_action", np.array([1, 1, 0, 1]), "column valid_action must be bool, got .*1.* in row 0"),
        ("valid_action", np.ones(3, bool), "column valid_action must be as long as .*, 4 rows, but has no row 3"),
        ("reward", np.zeros((4, 1)), r"column reward must be one-dimensional, got shape \(4, 1\)"),
        ("anchor_key", np.array(["a", "b", ["c"], "d"], dtype=object), r"must be hashable, got \['c'\] in row 2"),
        ("next_anchor_key", objects("b", "c", "b", ["d"]), r"next_anchor_key must be hashable, got \['d'\] in row 3"),
        ("next_anchor_key", objects("b", "c", "b"), "next_anchor_key must be as long as .*, 4 rows, but has no row 3"),
        (
            "next_anchor_key",
            objects("b", "c", "a", "d"),
            "next_anchor_key must be the anchor_key of the trajectory's next step, 'b' in row 3, but is 'a' in row 2",
        ),
    ],
)
def test_a_malformed_table_is_refused_by_column_and_row(column: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        StepTable(**columns(**{column: values}))
    assert column in str(caught.value)


def test_narrow_columns_are_widened() -> None:
    table = StepTable(**columns(step_index=np.array([0, 1, 0, 1], dtype=np.int8), reward=np.zeros(4, np.float32)))
    assert [table.step_index.dtype, table.reward.dtype] == [np.dtype(np.int64), np.dtype(np.float64)]


def test_tuples_are_anchors_of_their_own_not_further_dimensions() -> None:
    anchors = [(0, 1), (0, 2)]
    groups = [group(trajectory(*(step(anchor_key=anchor) for anchor in anchors)))]
    assert StepTable.from_groups(groups).anchor_key.tolist() == anchors


def test_a_tuple_that_holds_a_list_is_no_anchor() -> None:
    groups = [group(trajectory(step(), step(anchor_key=("a", [1]))))]
    with pytest.raises(ValueError, match=r"column anchor_key must be hashable, got \('a', \[1\]\) in row 1"):
        StepTable.from_groups(groups)


def test_the_caller_s_arrays_are_the_caller_s() -> None:
    reward = np.zeros(4)
    table = StepTable(**columns(reward=reward))
    reward[0] = 9.0
    assert table.reward[0] == 0.0


def test_rows_may_come_in_any_order() -> None:
    table = StepTable(**columns(trajectory_id=np.array([1, 0, 1, 0]), step_index=np.array([1, 0, 0, 1])))
    assert len(table) == 4


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("reward", np.array([0, 1, 2, 3])),
        ("reward", np.array([0.5, 1, 2, 3], dtype=object)),
        ("step_index", np.array([0, 1, 0, 1], dtype=np.uint8)),
        ("step_index", np.array([0, 1, 0, 1], dtype=object)),
        ("valid_action", np.array([True, False, True, True], dtype=object)),
        ("anchor_key", objects("a", 1, None, (2, "b"))),
        ("next_anchor_key", objects("b", None, "b", (2, "b"))),
    ],
)
def test_what_converts_without_loss_is_taken(column: str, values: Any) -> None:
    assert getattr(StepTable(**columns(**{column: values})), column).tolist() == list(values)
