"""A file of episodes is read whole and in its right order, or refused by file, row and column."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.rollout.store import check_trajectories, read_trajectories, write_trajectories
from gigpo_lightning.rollout.stored_rows import LATER, SCHEMA, PolicyLimits, StoredRows
from gigpo_lightning.trajectory import StopReason, TrajectoryGroup
from tests.episodes import group, step, trajectory

# Rows 0 to 2 are a trajectory of three steps, row 3 one of a single step, rows 4 and 5 the only one of another group.
GROUPS = [
    group(
        replace(trajectory(step((1, 2), (3, 4)), step((1,), (5,)), step((6,), (7,))), metrics={"score": 0.5}),
        trajectory(step((9,), (4,), valid_action=False), episode_index=1),
    ),
    group(trajectory(step((7,), (8,), reward=1.0), step((7,), (2,)), success=True)),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    path = tmp_path_factory.mktemp("written") / "epoch_0.parquet"
    write_trajectories(path, GROUPS, temperature=0.7)
    return pq.ParquetFile(path).read()


def read_back(table: pa.Table, folder: Path) -> tuple[list[TrajectoryGroup], float]:
    path = folder / "epoch_0.parquet"
    pq.write_table(table, path)
    return read_trajectories(path)


def changed(table: pa.Table, row: int, name: str, value: Any) -> pa.Table:
    """The table with another value in one place."""
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


rollouts = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3)
"""The number of steps of each trajectory, group by group."""
few = settings(max_examples=25)


def drawn(counts: list[list[int]], folder: Path) -> tuple[list[TrajectoryGroup], pa.Table]:
    groups = [
        group(*(trajectory(*(step((at + 1,), (3,)) for at in range(steps))) for steps in of_group))
        for of_group in counts
    ]
    write_trajectories(folder / "drawn.parquet", groups)
    return groups, pq.ParquetFile(folder / "drawn.parquet").read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


class TestOrder:
    @few
    @given(counts=rollouts, data=st.data())
    def test_any_order_of_rows_reads_as_the_same_groups(self, counts: Any, data: st.DataObject, folder: Path) -> None:
        groups, table = drawn(counts, folder)
        order = data.draw(st.permutations(range(len(table))))
        assert read_back(table.take(order), folder) == (groups, 1.0)

    @few
    @given(counts=rollouts, data=st.data())
    def test_a_file_without_one_of_its_rows_is_refused(self, counts: Any, data: st.DataObject, folder: Path) -> None:
        _, table = drawn(counts, folder)
        order = data.draw(st.permutations(range(len(table))))
        with pytest.raises(ValueError, match=r"epoch_0.parquet(, row \d+, column \w+: must|.* has no row)"):
            read_back(table.take(pa.array(order[1:], pa.int64())), folder)

    @few
    @given(counts=rollouts, data=st.data())
    def test_a_file_with_one_of_its_rows_twice_is_refused(self, counts: Any, data: st.DataObject, folder: Path) -> None:
        _, table = drawn(counts, folder)
        order = data.draw(st.permutations(range(len(table))))
        twice = data.draw(st.permutations([*order, order[0]]))
        with pytest.raises(ValueError, match=r"row \d+, column step_index: must be in trajectory \d+ once, but row"):
            read_back(table.take(twice), folder)

    def test_a_file_of_an_earlier_version_is_read(self, table: pa.Table, tmp_path: Path) -> None:
        old = table.drop_columns(list(LATER)).replace_schema_metadata({b"gigpo.temperature": b"0.7"})
        assert read_back(old.take([5, 0, 3, 4, 2, 1]), tmp_path) == (GROUPS, 0.7)

    def test_what_another_tool_made_of_the_types_is_read(self, table: pa.Table, tmp_path: Path) -> None:
        for name, kind in (
            ("task_id", pa.dictionary(pa.int32(), pa.string())),
            ("observation", pa.large_string()),
            ("prompt_ids", pa.large_list(pa.int32())),
            ("reward", pa.float32()),
            ("step_index", pa.uint8()),
        ):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
        assert read_back(table, tmp_path) == (GROUPS, 0.7)

    def test_columns_that_are_not_read_may_hold_anything(self, table: pa.Table, tmp_path: Path) -> None:
        assert read_back(table.append_column("advantage", pa.nulls(len(table))), tmp_path)[0] == GROUPS


class TestRefusals:
    @pytest.mark.parametrize(
        ("lost", "message"),
        [
            ([0], "row 0, column step_index: must count from 0 without a gap, but trajectory 0 has no step 0, got 1"),
            ([1], "row 1, column step_index: must count from 0 without a gap, but trajectory 0 has no step 1, got 2"),
            ([2], "row 1, column final_observation: must not be null: it is the last step of trajectory 0, got None"),
            ([3], "row 3, column trajectory_id: must count from 0 without a gap, but no row has 1, got 2"),
            ([4, 5], "row 0, column num_groups: must be the groups in the file, 1, got 2"),
        ],
    )  # fmt: skip
    def test_what_a_filter_left_out_is_named(
        self, table: pa.Table, tmp_path: Path, lost: list[int], message: str
    ) -> None:
        with pytest.raises(ValueError, match="epoch_0") as refusal:
            read_back(table.take([row for row in range(len(table)) if row not in lost]), tmp_path)
        assert str(refusal.value) == f"{tmp_path / 'epoch_0.parquet'}, {message}"

    @pytest.mark.parametrize(
        ("row", "name", "value", "message"),
        [
            (1, "logprobs", [0.5], "must hold finite log-probabilities <= 0, got 0.5"),
            (1, "logprobs", [math.nan], "must hold finite log-probabilities <= 0, got nan"),
            (1, "logprobs", [-math.inf], "must hold finite log-probabilities <= 0, got -inf"),
            (1, "logprobs", [None], "must not hold a null, got None"),
            (0, "logprobs", [-0.5], "must be as long as completion_ids, 2, got 1"),
            (4, "reward", math.nan, "must be in [-1e30, 1e30], got nan"),
            (4, "reward", math.inf, "must be in [-1e30, 1e30], got inf"),
            (4, "reward", -1e300, "must be in [-1e30, 1e30], got -1e+300"),
            (2, "metrics", [("score", math.nan)], "must map names to finite numbers, got [('score', nan)]"),
            (5, "metrics", [("score", None)], "must map names to finite numbers, got [('score', None)]"),
            (2, "reward", None, "must not be null, got None"),
            (3, "success", None, "must not be null, got None"),
            (3, "metrics", None, "must not be null, got None"),
            (5, "prompt_ids", [7, -1], "must hold token ids >= 0, got -1"),
            (5, "completion_ids", [-3], "must hold token ids >= 0, got -3"),
            (5, "prompt_ids", [], "must hold at least one token, got 0"),
            (2, "stop_reason", "tired", "must be one of terminated, truncated, max_steps, got 'tired'"),
            (0, "temperature", -1.0, "must be a finite number >= 0, got -1.0"),
            (0, "temperature", math.nan, "must be a finite number >= 0, got nan"),
            (1, "temperature", 0.9, "must be one value in all rows of the file, but row 0 has 0.7, got 0.9"),
            (0, "policy_version", -1, "must be >= 0, got -1"),
            (4, "step_index", -1, "must be >= 0, got -1"),
            (2, "task_id", "x", "must be one value in all rows of trajectory 0, but row 1 has 'task', got 'x'"),
            (5, "success", False, "must be one value in all rows of trajectory 2, but row 4 has True, got False"),
            (1, "episode_group_id", 1, "must be one value in all rows of trajectory 0, but row 0 has 0, got 1"),
            (3, "task_id", "x", "must be one value in all rows of group 0, but row 2 has 'task', got 'x'"),
            (1, "final_observation", "end", "must be null: it is not the last step of trajectory 0, got 'end'"),
            (1, "final_anchor", "end", "must be null: it is not the last step of trajectory 0, got 'end'"),
            (5, "scores", [("progress", math.inf)], "must map names to finite numbers, got [('progress', inf)]"),
        ],
    )
    def test_a_value_that_cannot_be_is_named(
        self, table: pa.Table, tmp_path: Path, row: int, name: str, value: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match="epoch_0") as refusal:
            read_back(changed(table, row, name, value), tmp_path)
        assert str(refusal.value) == f"{tmp_path / 'epoch_0.parquet'}, row {row}, column {name}: {message}"

    @pytest.mark.parametrize("name", [name for name in SCHEMA.names if name not in LATER])
    def test_a_column_that_is_not_there_is_named(self, table: pa.Table, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match=f"must hold trajectories, but has no column '{name}'"):
            read_back(table.drop_columns([name]), tmp_path)

    @pytest.mark.parametrize("name", SCHEMA.names)
    def test_a_column_of_another_type_is_named(self, table: pa.Table, tmp_path: Path, name: str) -> None:
        dates = pa.array([0] * len(table), pa.date32())
        with pytest.raises(ValueError, match=rf"epoch_0.parquet: column {name} must be .*, got date32"):
            read_back(table.set_column(table.column_names.index(name), name, dates), tmp_path)

    def test_a_column_that_is_there_twice_is_named(self, table: pa.Table) -> None:
        with pytest.raises(
            ValueError, match=r"x.parquet must hold trajectories, but has more than one column 'reward'"
        ):
            StoredRows(table.append_column("reward", table["reward"]), Path("x.parquet"))

    def test_a_file_without_a_row_is_refused(self, table: pa.Table, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"epoch_0.parquet must hold trajectories, but has no row"):
            read_back(table.slice(0, 0), tmp_path)

    def test_a_file_that_does_not_say_its_temperature_is_refused(self, table: pa.Table, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="must say the temperature of its replies, but has no column 'temperature'"
        ):
            read_back(table.drop_columns(list(LATER)), tmp_path)

    @pytest.mark.parametrize("noted", [b"nan", b"-1.0", b"warm"])
    def test_a_temperature_of_an_earlier_version_that_cannot_be_is_refused(
        self, table: pa.Table, tmp_path: Path, noted: bytes
    ) -> None:
        old = table.drop_columns(list(LATER)).replace_schema_metadata({b"gigpo.temperature": noted})
        with pytest.raises(ValueError, match=r"gigpo.temperature of its metadata must be a finite number >= 0, got"):
            read_back(old, tmp_path)

    def test_two_files_put_together_are_refused(self, table: pa.Table, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="row 6, column step_index: must be in trajectory 0 once, but row 0 has it"
        ):
            read_back(pa.concat_tables([table, table]), tmp_path)


class TestLimits:
    def test_the_longest_and_the_highest_that_a_policy_can_take_pass(self, table: pa.Table, tmp_path: Path) -> None:
        read_back(table, tmp_path)
        check_trajectories(tmp_path / "epoch_0.parquet", PolicyLimits(vocabulary_size=10, context=4))

    def test_a_token_beyond_the_vocabulary_is_named(self, table: pa.Table, tmp_path: Path) -> None:
        read_back(table, tmp_path)
        message = r"row 3, column prompt_ids: must hold token ids below 9, the policy's vocabulary, got 9"
        with pytest.raises(ValueError, match=message):
            check_trajectories(tmp_path / "epoch_0.parquet", PolicyLimits(vocabulary_size=9, context=None))

    def test_a_step_longer_than_the_context_is_named(self, table: pa.Table, tmp_path: Path) -> None:
        read_back(table, tmp_path)
        message = r"row 0, column prompt_ids: must be at most 3 tokens with its reply, the policy's context, got 4"
        with pytest.raises(ValueError, match=message):
            check_trajectories(tmp_path / "epoch_0.parquet", PolicyLimits(vocabulary_size=10, context=3))


def test_every_reason_to_stop_is_read(tmp_path: Path) -> None:
    groups = [group(replace(trajectory(step()), stop_reason=reason)) for reason in StopReason]
    write_trajectories(tmp_path / "epoch_0.parquet", groups)
    assert read_trajectories(tmp_path / "epoch_0.parquet")[0] == groups
