"""A run's folder is one run's: begun once, gone on with, never mixed with another's."""

import errno
import time

import pytest

from gigpo_lightning.disk import FullDiskError
from gigpo_lightning.sweep.run import Record, Run, State, begin
from tests.sweep.runs import FAILS, FINISHES, PROGRAM, text


def checkpoint(run: Run) -> None:
    (run.folder / "last.ckpt").write_bytes(b"learnt")


class TestARun:
    def test_one_that_has_finished_is_left_alone(self, new, stop_file):
        run = new(FINISHES)
        record = run.carry_out(PROGRAM, stop_file)
        assert (record.state, record.exit_code) == (State.FINISHED, 0)
        assert not run.prepare(text(run.folder, FINISHES))
        assert run.carry_out(PROGRAM, stop_file) == record
        assert run.log.read_text().count("$ ") == 1

    def test_one_that_fails_says_so_and_is_begun_anew(self, new, stop_file):
        run = new(FAILS)
        record = run.carry_out(PROGRAM, stop_file)
        assert (record.state, record.exit_code) == (State.FAILED, 2)
        assert "error: the engine is gone" in run.log.read_text()
        assert run.prepare(text(run.folder, FAILS))
        assert record.first_version == 0
        (run.folder / "lightning_logs" / "version_3").mkdir(parents=True)
        assert run.carry_out(PROGRAM, stop_file).first_version == 4
        assert "--ckpt_path" not in run.log.read_text()

    def test_one_that_was_killed_goes_on_from_its_checkpoint(self, new, stop_file):
        run = new(FINISHES)
        killed = Record(state=State.RUNNING, begun=time.time(), seconds=100.0)
        run.write(killed)
        checkpoint(run)
        config = text(run.folder, FINISHES)
        assert run.prepare(config)
        begin(run, config)
        assert run.record.state == State.STOPPED
        record = run.carry_out(PROGRAM, stop_file)
        assert run.log.read_text().endswith("--ckpt_path last\n")
        assert record.begun == killed.begun
        assert record.seconds > 100.0

    def test_a_full_disk_is_called_by_its_name(self, new, stop_file, monkeypatch):
        def full(path: object, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        run = new(FINISHES)
        monkeypatch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(FullDiskError, match=r"run.json cannot be written: the disk is full; what .* is unharmed"):
            run.carry_out(PROGRAM, stop_file)

    def test_what_was_learnt_is_not_gone_on_with_under_another_configuration(self, new):
        run = new(FAILS)
        checkpoint(run)
        with pytest.raises(ValueError, match=r"same configuration, but trainer\.max_epochs was None and is 9; choose"):
            run.prepare(text(run.folder, FAILS, max_epochs=9))

    def test_what_has_finished_is_not_taken_for_another_configuration_s(self, new, stop_file):
        run = new(FINISHES)
        run.carry_out(PROGRAM, stop_file)
        with pytest.raises(ValueError, match=r"but trainer\.max_epochs was None and is 9"):
            run.prepare(text(run.folder, FINISHES, max_epochs=9))

    def test_where_nothing_was_learnt_another_configuration_may_begin(self, new, stop_file):
        run = new(FAILS)
        run.carry_out(PROGRAM, stop_file)
        mended = text(run.folder, FINISHES)
        assert run.prepare(mended)
        begin(run, mended)
        assert run.carry_out(PROGRAM, stop_file).state == State.FINISHED

    def test_two_sweeps_do_not_share_one(self, new, stop_file):
        run = new(FINISHES)
        with run.held():
            with pytest.raises(ValueError, match=f"one is at work in {run.folder}"):
                run.prepare(text(run.folder, FINISHES))
            assert run.carry_out(PROGRAM, stop_file).state == State.WAITING
        assert not run.log.exists()

    def test_none_begins_once_the_sweep_is_stopping(self, new, stop_file):
        run = new(FINISHES)
        stop_file.touch()
        assert run.carry_out(PROGRAM, stop_file).state == State.WAITING
