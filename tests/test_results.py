"""What a run's folder says of its success, counted once."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigpo_lightning.results import held_out, training
from tests.sweep.runs import write_evaluations


def test_success_before_and_after_counts_every_task_once(tmp_path):
    """Task a is won in one of two repeats, then in both; b never."""
    plays = [(0, "a", 0, True), (0, "a", 1, False), (0, "b", 0, False)]
    plays += [(9, "a", 0, True), (9, "a", 1, True), (9, "b", 0, False)]
    write_evaluations(tmp_path / "version_0", plays)
    assert held_out(tmp_path) == {"valid before": 0.25, "valid after": 0.5}


def test_what_was_played_again_after_an_interruption_counts_once(tmp_path):
    write_evaluations(tmp_path / "version_9", [(9, "a", 0, False)])
    (tmp_path / "version_9/evaluations.jsonl").open("a").write('{"split": "val')  # killed while it wrote
    write_evaluations(tmp_path / "version_10", [(9, "a", 0, True), (9, "b", 0, True)])
    assert held_out(tmp_path) == {"valid after": 1.0}


def test_training_success_is_the_last_epoch_s_over_all_ranks(tmp_path):
    files = {"epoch_9": [(0, False)], "epoch_10.0": [(0, True), (0, True), (1, False)], "epoch_10.1": [(0, True)]}
    for name, rows in files.items():
        trajectory, success = ([each[column] for each in rows] for column in (0, 1))
        (tmp_path / "trajectories").mkdir(exist_ok=True)
        table = pa.table({"trajectory_id": trajectory, "success": success})
        pq.write_table(table, tmp_path / "trajectories" / f"{name}.parquet")
    assert training(tmp_path) == {"train": pytest.approx(2 / 3)}  # by episode, not by step
