"""What the table says is what the runs have written down, counted once."""

import csv
from dataclasses import replace

from gigpo_lightning.sweep.runs import Record, write_record
from gigpo_lightning.sweep.table import Row, cells_table, row, runs_table, write_csv
from tests.sweep.runs import FINISHES, done, write_evaluations


class TestTheTable:
    def test_an_earlier_attempt_s_files_do_not_count(self, tmp_path):
        folder = tmp_path / "version_7"
        folder.mkdir()
        write_evaluations(folder / "version_0", [(0, "a", 0, True)])
        write_record(folder, Record(first_version=1))
        assert row(folder, {}).success == {}
        write_evaluations(folder / "version_1", [(0, "a", 0, False)])
        assert row(folder, {}).success == {"valid before": 0.0}

    def test_a_cell_s_mean_is_over_the_seeds_that_have_finished(self, tmp_path):
        finished, failed = Record(exit_code=0), Record(exit_code=2)
        figures = [("grpo", finished, 0.2), ("grpo", finished, 0.4), ("grpo", failed, 0.9), ("gigpo", finished, 0.5)]
        rows = [
            Row(
                folder=tmp_path / str(seed),
                overrides={"credit": credit, "seed_everything": str(seed)},
                record=record,
                success={"valid after": after},
            )
            for seed, (credit, record, after) in enumerate(figures)
        ]
        cells = cells_table(rows)
        assert [list(column.cells) for column in cells.columns][:2] == [["grpo", "gigpo"], ["2", "1"]]
        assert list(cells.columns[3].cells) == ["30.0 ± 14.1 %", "50.0 %"]

    def test_runs_of_one_seed_have_no_mean(self, tmp_path):
        one = Row(folder=tmp_path, overrides={"credit": "grpo"}, record=Record(exit_code=0))
        assert cells_table([one]) is None

    def test_keys_that_end_alike_are_told_apart(self, tmp_path):
        overrides = {"a.init_args.seed": "1", "b.seed": "2", "c.lr": "3"}
        table = runs_table([Row(folder=tmp_path, overrides=overrides, record=Record())])
        assert [column.header for column in table.columns][:3] == ["a.seed", "b.seed", "lr"]

    def test_a_file_has_every_key_in_full_and_every_figure(self, tmp_path):
        record = done(tmp_path / "run", FINISHES)
        write_record(tmp_path / "run", replace(record, seconds=83.26))  # not the few hundredths that it really took
        write_csv(tmp_path / "results.csv", [row(tmp_path / "run", {"model.init_args.x": "1"})])
        with (tmp_path / "results.csv").open() as file:
            (line,) = csv.DictReader(file)
        assert line == {
            "run": "run",
            "model.init_args.x": "1",
            "state": "finished",
            "exit_code": "0",
            "valid_before": "0.0000",
            "valid_after": "0.5000",
            "train_success": "",
            "seconds": "83.3",
            "log": str(tmp_path / "run/log.txt"),
        }
