"""A run has a folder of its own: begun once, gone on with, never mixed with another; signals stop it in good order."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gigpo_lightning.disk import FullDiskError
from gigpo_lightning.sweep.runs import Record, is_left, prepare, read_record, write_record
from tests.sweep.runs import FAILS, FINISHES, HANGS, PROGRAM, STOPS, done, text

SWEEP = "import sys, json; from gigpo_lightning.messages import log_to_stderr; log_to_stderr()\n"
SWEEP += "from pathlib import Path; from gigpo_lightning.sweep.composition import compose\n"
SWEEP += "from gigpo_lightning.sweep.runs import launch; root, names, command = json.loads(sys.argv[1])\n"
SWEEP += "sweep = compose('default', [], [f'hydra.sweep.dir={root}'], False)\n"
SWEEP += "sys.exit(launch(sweep, [Path(root) / name for name in names], command))\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


class TestARun:
    def test_one_that_has_finished_is_not_left(self, folder):
        record = done(folder, FINISHES)
        assert (record.state, record.exit_code) == ("finished", 0)
        assert not is_left(folder, text(folder, FINISHES))

    def test_one_that_fails_says_so_and_is_begun_anew(self, folder):
        assert (done(folder, FAILS).state, read_record(folder).first_version) == ("failed", 0)
        assert "error: the engine is gone" in (folder / "log.txt").read_text()
        assert is_left(folder, text(folder, FAILS))
        (folder / "lightning_logs" / "version_3").mkdir(parents=True)
        assert done(folder, FAILS).first_version == 4
        assert "--ckpt_path" not in (folder / "log.txt").read_text()

    def test_one_that_was_killed_goes_on_from_its_checkpoint(self, folder):
        prepare(folder, text(folder, FINISHES))
        write_record(folder, Record(pid=2**22, first_version=1, seconds=100.0))
        (folder / "last.ckpt").write_bytes(b"learnt")
        assert read_record(folder).state == "stopped"
        assert is_left(folder, text(folder, FINISHES))
        record = done(folder, FINISHES)
        assert (folder / "log.txt").read_text().endswith("--ckpt_path last\n")
        assert record.first_version == 1
        assert record.seconds > 100.0

    def test_a_full_disk_is_called_by_its_name(self, folder, monkeypatch):
        def full(path: object, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        folder.mkdir()
        monkeypatch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(FullDiskError, match=r"run.json cannot be written: the disk is full"):
            write_record(folder, Record())

    def test_what_was_learnt_is_not_gone_on_with_under_another_configuration(self, folder):
        prepare(folder, text(folder, FAILS))
        (folder / "last.ckpt").write_bytes(b"learnt")
        with pytest.raises(ValueError, match=r"same configuration, but trainer\.max_epochs was None and is 9; choose"):
            is_left(folder, text(folder, FAILS, max_epochs=9))

    def test_what_has_finished_is_not_taken_for_another_configuration_s(self, folder):
        done(folder, FINISHES)
        with pytest.raises(ValueError, match=r"but trainer\.max_epochs was None and is 9"):
            is_left(folder, text(folder, FINISHES, max_epochs=9))

    def test_where_nothing_was_learnt_another_configuration_may_begin(self, folder):
        done(folder, FAILS)
        assert is_left(folder, text(folder, FINISHES))
        assert done(folder, FINISHES).state == "finished"

    def test_two_sweeps_do_not_share_one(self, folder):
        prepare(folder, text(folder, HANGS))
        with subprocess.Popen([*PROGRAM, "fit", "--config", str(folder / "config.yaml")]) as process:
            write_record(folder, Record(pid=process.pid))
            with pytest.raises(ValueError, match=f"process {process.pid} is at work in {folder}"):
                is_left(folder, text(folder, HANGS))
            process.kill()
        assert is_left(folder, text(folder, HANGS))

    def test_another_program_with_its_number_is_not_the_run(self, folder):
        prepare(folder, text(folder, FINISHES))
        write_record(folder, Record(pid=os.getpid()))
        assert is_left(folder, text(folder, FINISHES))


class TestASignal:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stops_the_run_under_way_in_good_order_and_begins_no_other(self, number, tmp_path):
        with launched(tmp_path, STOPS, FINISHES) as sweep:
            started(tmp_path / "0")
            sweep.send_signal(number)
        assert sweep.returncode == number
        assert [read_record(tmp_path / name).state for name in "01"] == ["stopped", "waiting"]
        assert list(tmp_path.rglob("*.ckpt"))

    def test_that_comes_twice_kills_what_does_not_stop(self, tmp_path):
        with launched(tmp_path, HANGS) as sweep:
            run = started(tmp_path / "0")
            sweep.send_signal(signal.SIGINT)
            assert "stopping" in next(line for line in sweep.stderr if "under way" not in line)
            sweep.send_signal(signal.SIGINT)
        assert sweep.returncode == signal.SIGINT
        assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE
        assert read_record(tmp_path / "0").state == "stopped"


def launched(root: Path, *seeds: int) -> subprocess.Popen[str]:
    names = [str(index) for index in range(len(seeds))]
    for name, seed in zip(names, seeds, strict=True):
        prepare(root / name, text(root / name, seed))
    words = [sys.executable, "-c", SWEEP, json.dumps([str(root), names, PROGRAM])]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def started(folder: Path) -> psutil.Process:
    deadline = time.monotonic() + 600
    while not (read_record(folder).pid and list(folder.glob("version_*"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(read_record(folder).pid)
