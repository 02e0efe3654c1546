"""A sweep that is stopped or killed takes its runs with it, in good order."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from gigpo_lightning.sweep.composition import compose
from gigpo_lightning.sweep.launch import Launch, threads
from gigpo_lightning.sweep.run import Run, State, Task
from tests.sweep.process import start, start_run
from tests.sweep.runs import FINISHES, HANGS, PROGRAM, STOPS, text, wait_for


def launched(runs: list[Run], stop_file: Path) -> Launch:
    task = Task(runs=tuple(runs), command=PROGRAM, stop_file=stop_file)
    return Launch(source=compose("default", (), (), False).source, folder=stop_file.parent, task=task, environment={})


class TestALaunch:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_the_run_under_way_in_good_order_and_begins_no_other(self, number, new, stop_file):
        runs = [new(STOPS, "first"), new(FINISHES, "second")]
        process = start(launched(runs, stop_file))
        wait_for(runs[0], State.RUNNING)
        os.kill(process.pid, number)
        process.join(600)
        assert process.exitcode == number
        assert [run.record.state for run in runs] == [State.STOPPED, State.WAITING]
        assert runs[0].has_checkpoint()
        assert not stop_file.exists()

    def test_a_second_signal_kills_what_does_not_stop(self, new, stop_file):
        run = new(HANGS)
        process = start(launched([run], stop_file))
        wait_for(run, State.RUNNING)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGINT)
        process.join(600)
        assert (run.record.state, run.record.exit_code) == (State.STOPPED, -signal.SIGKILL)

    def test_a_sweep_that_is_killed_leaves_no_run_going(self, new, stop_file):
        run = new(STOPS)
        process = start(launched([run], stop_file))
        wait_for(run, State.RUNNING)
        process.kill()
        wait_for(run, State.STOPPED)
        assert run.has_checkpoint()

    def test_a_run_whose_worker_was_killed_still_holds_its_folder(self, new, stop_file):
        run = new(HANGS)
        worker = start_run(run, PROGRAM, stop_file)
        wait_for(run, State.RUNNING)
        (orphan,) = psutil.Process(worker.pid).children()
        worker.kill()
        worker.join()
        with pytest.raises(ValueError, match="one is at work"):
            run.prepare(text(run.folder, HANGS))
        orphan.kill()
        orphan.wait(600)
        assert run.prepare(text(run.folder, HANGS))


@pytest.mark.parametrize(
    ("launcher", "num_runs", "variables", "expected"),
    [
        ({}, 8, {}, None),
        ({"n_jobs": 1}, 8, {}, None),
        ({"n_jobs": 4}, 8, {}, "2"),
        ({"n_jobs": -1}, 8, {}, "1"),
        ({"n_jobs": 4}, 2, {}, "4"),
        ({"n_jobs": 4}, 1, {}, None),
        ({"n_jobs": 4}, 8, {"OMP_NUM_THREADS": "7"}, None),
    ],
    ids=["basic", "one", "four", "all", "fewer_runs", "one_run", "said"],
)
def test_runs_that_share_a_machine_share_half_of_its_cores(launcher, num_runs, variables, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert threads(launcher, num_runs, variables).get("OMP_NUM_THREADS") == expected
