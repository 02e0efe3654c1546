"""Episodes on disk, for any tool that reads Parquet."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.rollout.store import read_trajectories, write_trajectories
from gigpo_lightning.trajectory import StepTable
from tests.episodes import group, step, trajectory

GROUPS = [
    group(
        trajectory(step((1, 2), (3, 4)), step((1,), (5,), reward=10.0), episode_index=0, success=True),
        trajectory(step((9,), (4,), valid_action=False), episode_index=1),
    ),
    group(trajectory(step((7,), (8,), observation="a hall", anchor_key=("hall", 3)), episode_index=0)),
]


def test_every_step_is_a_row_with_its_place_in_the_rollout(tmp_path):
    path = tmp_path / "new" / "epoch_0.parquet"
    write_trajectories(path, GROUPS)
    rows = pq.read_table(path).to_pylist()
    places = [(row["episode_group_id"], row["trajectory_id"], row["step_index"]) for row in rows]
    assert places == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 2, 0)]
    assert rows[1] | {"prompt_ids": [1], "completion_ids": [5], "logprobs": [-0.05], "reward": 10.0} == rows[1]
    assert [row["success"] for row in rows] == [True, True, False, False]
    assert [row["valid_action"] for row in rows] == [True, True, False, True]
    assert rows[3]["anchor_key"] == "('hall', 3)"  # a key may be anything; a file holds text
    assert "advantage" not in rows[0]


def test_the_rows_of_the_credit_are_those_of_the_file(tmp_path):
    credit = GiGPO().estimate(StepTable.from_groups(GROUPS))
    write_trajectories(tmp_path / "epoch.parquet", GROUPS, credit)
    table = pq.read_table(tmp_path / "epoch.parquet")
    for name in ("advantage", "episode_advantage", "step_advantage", "step_group_id"):
        np.testing.assert_array_equal(table[name].to_numpy(), getattr(credit, name))


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise OSError("no space left")

    path = tmp_path / "epoch.parquet"
    write_trajectories(path, GROUPS[:1])
    before = path.read_bytes()
    monkeypatch.setattr(pq, "write_table", stop)
    with pytest.raises(OSError, match="no space"):
        write_trajectories(path, GROUPS)
    assert path.read_bytes() == before


def test_what_was_written_is_read_back(tmp_path):
    groups = [
        group(
            trajectory(step((1, 2), (3, 4), prompt_truncated=True), step((1,), (5,), reward=0.1 + 0.2), success=True),
            replace(
                trajectory(step((9,), (), valid_action=False)), final_observation="the end", metrics={"score": 0.75}
            ),
        ),
        group(trajectory(step((7,), (8,), policy_version=3, anchor_key="a hall"))),
    ]
    write_trajectories(tmp_path / "epoch.parquet", groups, temperature=0.7)
    assert read_trajectories(tmp_path / "epoch.parquet") == (groups, 0.7)


def test_the_state_after_the_last_action_is_in_the_last_row_and_is_read_back_as_text(tmp_path):
    lost = trajectory(step((1,), (2,)), step((3,), (4,)), final_anchor=("hall", 3))
    write_trajectories(tmp_path / "epoch.parquet", [group(lost)])
    assert pq.read_table(tmp_path / "epoch.parquet")["final_anchor"].to_pylist() == [None, "('hall', 3)"]
    read = read_trajectories(tmp_path / "epoch.parquet")[0]
    assert StepTable.from_groups(read).next_anchor_key.tolist() == ["a room", "('hall', 3)"]


def test_an_end_that_is_not_known_stays_so(tmp_path):
    groups = [group(trajectory(step((1,), (2,))), trajectory(step((3,), (4,)), final_anchor="None"))]
    write_trajectories(tmp_path / "epoch.parquet", groups)
    assert read_trajectories(tmp_path / "epoch.parquet")[0] == groups


def test_scores_are_read_back(tmp_path):
    groups = [group(trajectory(step((1,), (2,), scores={"progress": 0.1 + 0.2}), step((3,), (4,))))]
    write_trajectories(tmp_path / "epoch.parquet", groups)
    assert read_trajectories(tmp_path / "epoch.parquet")[0] == groups


def test_a_file_without_the_columns_of_a_rollout_is_refused(tmp_path):
    pq.write_table(pa.table({"episode_group_id": [0], "trajectory_id": [0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet must hold trajectories, but has no column 'step_index'"):
        read_trajectories(tmp_path / "other.parquet")
