"""What an environment does to its process costs its episode at most: it hangs nothing and ends no run in silence."""

import math
import multiprocessing
import os
import time

import psutil
import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import RunError, StoppedBySignal
from gigpo_lightning.rollout import Deadlines, make_pool
from tests.pool.misbehaving_environment import BadAtGoodbyes, MisbehavingEnvironment, Unsendable, play_until_killed

TASK = Task(task_id="a", kind="any")
PATIENT = Deadlines(start=math.inf, reset=1e12, step=60.0)  # a step that hangs is a failure, not a hanging test


class Player:
    """One slot of a pool."""

    def __init__(self, workers: int, environment=None) -> None:
        self.pool = make_pool(environment or MisbehavingEnvironment(), 1, workers, PATIENT)
        self.slot = self.pool.take_slot(TASK)

    def begin(self):
        self.pool.reset(self.slot, TASK)
        return self.answer()

    def act(self, action: str):
        self.pool.step(self.slot, action)
        return self.answer()

    def answer(self):
        (event,) = self.pool.poll(block=True)
        return event


@pytest.fixture(scope="module", params=[0, 1], ids=["in process", "worker"])
def player(request):
    player = Player(request.param)
    yield player
    player.pool.close()


@pytest.fixture(scope="module")
def worker():
    player = Player(1)
    yield player
    player.pool.close()


def gone(pid: int) -> bool:
    """Whether a process ends, as one that has been killed does, however busy the machine is."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_an_exit_fails_the_episode_and_nothing_else(player):
    before = player.begin()
    assert player.act("exits").failure.endswith("SystemExit: 0\n")
    assert player.begin().observation == before.observation  # the same process


@pytest.mark.parametrize("action", ["forks", "forks_and_exits"])
def test_the_child_of_a_fork_does_not_answer(player, action):
    before = player.begin()
    assert player.act(action).observation == before.observation
    assert player.act("nothing").observation == before.observation
    assert player.pool.poll(block=False) == []


def test_a_worker_that_died_is_noticed_though_its_child_holds_the_pipe(worker):
    worker.begin()
    assert worker.act("forks_and_dies").failure == "the environment worker 0 died, exit code 9"


def test_a_worker_that_loses_its_pipe_is_replaced(worker):
    worker.begin()
    assert worker.act("cuts_its_wires").failure.startswith("the environment worker 0 died")
    assert worker.begin().failure == ""


def test_an_anchor_that_cannot_be_read_is_named(worker):
    worker.begin()
    failure = worker.act("anchors_elsewhere").failure
    assert failure.startswith("the environment worker 0 answered what cannot be read: ImportError(")
    assert worker.begin().failure == ""


def test_a_keyboard_interrupt_of_a_workers_environment_is_its_failure(worker):
    worker.begin()
    assert worker.act("interrupts").failure.endswith("KeyboardInterrupt\n")


def test_a_keyboard_interrupt_in_process_may_be_the_users():
    player = Player(0)
    player.begin()
    with pytest.raises(KeyboardInterrupt):
        player.act("interrupts")


def test_a_signal_that_ends_the_process_is_not_the_environments_failure(monkeypatch):
    def stop(self):
        raise StoppedBySignal(143)

    monkeypatch.setattr(MisbehavingEnvironment, "nothing", stop)
    player = Player(0)
    player.begin()
    with pytest.raises(StoppedBySignal):
        player.act("nothing")


def test_an_environment_may_start_and_end_processes(player):
    player.begin()
    event = player.act("has_children")
    assert (event.failure, event.anchor) == ("", (0, -15))


def test_what_an_environment_has_started_ends_with_its_pool():
    player = Player(1)
    player.begin()
    child = player.act("leaves_a_child").anchor
    assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE
    player.pool.close()
    assert gone(child)


def test_nothing_outlives_a_run_that_is_killed():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    run = context.Process(target=play_until_killed, args=(there,))
    run.start()
    pids = here.recv()
    run.kill()
    run.join()
    assert [gone(pid) for pid in pids] == [True, True]


def test_the_run_stays_where_it_is_and_the_environments_where_they_went(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    player = Player(0)
    player.begin()
    player.act("goes_elsewhere")
    assert os.getcwd() == str(tmp_path)
    assert player.act("says_where").anchor == "/"
    player.pool.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_cannot_be_closed_ends_nothing(workers, caplog):
    player = Player(workers, BadAtGoodbyes())
    assert player.begin().failure == ""
    player.pool.close()
    assert ("environment 0 could not be closed: SystemExit(0)" in caplog.text) == (workers == 0)


def test_an_exit_while_it_warms_up_ends_the_run_with_a_word(monkeypatch):
    monkeypatch.setenv("WARM_UP", "exits")
    player = Player(1)
    with pytest.raises(RunError, match=r"(?s)the environment cannot be played: .*SystemExit: 0"):
        player.begin()
    player.pool.close()


def test_an_environment_that_cannot_be_pickled_is_refused_by_name():
    with pytest.raises(ValueError, match="environment must be picklable before its first reset, for workers >= 1, but"):
        Player(1, Unsendable())


def test_a_deadline_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"deadlines.step must be > 0 seconds, got nan"):
        Deadlines(step=math.nan)
