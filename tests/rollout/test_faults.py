"""Environments that raise, hang, die and lie: an episode is played once, or its whole group dropped and counted."""

from pathlib import Path

import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import Deadlines, make_pool
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.store import read_trajectories, write_trajectories
from tests.rollout.faulty_environment import ColdEnvironment, DiesAtOnce, FaultyEnvironment, Sluggish
from tests.rollout.players import make_collector

QUICK = Deadlines(reset=1.0, step=1.0)


def make_tasks(folder: Path, fault: str = "raises", where: str = "step", times: int = 1, faulty: int = 1) -> list[Task]:
    """Four tasks; one strikes."""
    return [
        Task(
            task_id=f"task {number}",
            kind="any",
            payload={
                "file": str(folder / f"strikes {number}"),
                "fault": fault,
                "where": where,
                "times": times if number == faulty else 0,
            },
        )
        for number in range(4)
    ]


def collector(workers: int = 2, num_slots: int = 6, **options) -> Collector:
    return make_collector("up", pool=make_pool(FaultyEnvironment(), num_slots, workers, QUICK), max_steps=5, **options)


def play(tasks: list[Task], group_size: int = 3, **options):
    """The groups, the counts, and the player that it took."""
    player = collector(**options)
    try:
        groups, progress = player.play(tasks, group_size, noise_key=0, name="test")
    finally:
        player.pool.close()
    return groups, progress, player


def records(groups):
    return [
        [(step.observation, step.action, step.reward) for trajectory in group.trajectories for step in trajectory.steps]
        for group in groups
    ]


FAULTS = [("raises", "reset"), ("raises", "step"), ("hangs", "reset"), ("hangs", "step"), ("dies", "reset")]
FAULTS += [("dies", "step"), ("no string", "reset"), ("no string", "step"), ("nan", "step")]


@pytest.mark.parametrize(("fault", "where"), FAULTS)
@pytest.mark.slow
def test_an_episode_is_begun_again_and_nothing_else_is_lost(tmp_path, fault, where):
    groups, progress, _ = play(make_tasks(tmp_path, fault, where))
    peaceful, _, _ = play(make_tasks(tmp_path, times=0), workers=0)
    assert records(groups) == records(peaceful)
    assert (progress.total, progress.finished, progress.dropped, progress.successes) == (12, 12, 0, 12)
    assert progress.retried >= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_an_environment_cannot_do_without_ends_the_rollout_though_other_tasks_do_without(tmp_path, workers):
    message = "task 'task 1' failed 3 times: the bridge is closed for good"
    with pytest.raises(RunError, match=message):
        play(make_tasks(tmp_path, "cannot", times=99), workers=workers)
    (tmp_path / "strikes 1").unlink()
    groups, progress, _ = play(make_tasks(tmp_path, "cannot", times=2), workers=workers)  # it is open again in time
    assert (len(groups), progress.dropped) == (4, 0)


def test_half_a_character_is_no_harm(tmp_path):
    groups, progress, _ = play(make_tasks(tmp_path, "half a character"))
    assert progress.retried == 0
    said = {step.observation for group in groups for each in group.trajectories for step in each.steps}
    assert "a ? b" in said


@pytest.mark.slow
def test_a_worker_warms_its_environment_up_before_any_deadline_but_that_of_its_start(tmp_path):
    pool = make_pool(ColdEnvironment(), 2, 1, QUICK)
    (task, *_) = make_tasks(tmp_path, times=0)
    slot = pool.take_slot(task)
    pool.reset(slot, task)
    (event,) = pool.poll(block=True)
    pool.step(slot, "on")
    (event,) = pool.poll(block=True)
    assert (event.observation, event.failure) == ("left 2 warm", "")
    pool.close()


def test_an_environment_that_cannot_be_warmed_up_ends_the_run_with_its_own_words():
    pool = make_pool(ColdEnvironment("corpus_path must be a file, got 'x'"), 2, 1, QUICK)
    task = Task(task_id="a", kind="any")
    pool.reset(pool.take_slot(task), task)
    with pytest.raises(RunError, match="the environment cannot be played: corpus_path must be a file, got 'x'"):
        pool.poll(block=True)
    pool.close()


@pytest.mark.parametrize(("fault", "where"), FAULTS)
@pytest.mark.slow
def test_after_too_many_attempts_the_group_is_dropped_and_counted(tmp_path, fault, where, caplog):
    groups, progress, _ = play(make_tasks(tmp_path, fault, where, times=100), max_retries=1)
    assert [group.task_id for group in groups] == ["task 0", "task 2", "task 3"]
    assert all(len(group.trajectories) == 3 for group in groups)
    assert (progress.finished, progress.dropped) == (9, 3)
    assert progress.total == progress.finished + progress.dropped
    assert "test: dropped the task 'task 1'" in caplog.text


@pytest.mark.parametrize("fault", ["dies", "hangs"])
@pytest.mark.slow
def test_what_an_episode_does_to_its_worker_is_not_held_against_the_others_in_it(tmp_path, fault):
    tasks = make_tasks(tmp_path, fault, times=100)
    groups, progress, _ = play(
        tasks, workers=1, num_slots=12, max_retries=1
    )  # all four tasks live with the one that kills
    assert [group.task_id for group in groups] == ["task 0", "task 2", "task 3"]
    assert (progress.finished, progress.dropped) == (9, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cause_of_a_dropped_group_is_in_the_log(tmp_path, workers, caplog):
    play(make_tasks(tmp_path, times=100), workers=workers, max_retries=0)
    assert "RuntimeError: the bridge fell down" in caplog.text


@pytest.mark.slow
def test_a_worker_that_died_or_hung_is_named_in_the_log(tmp_path, caplog):
    play(make_tasks(tmp_path, "hangs", times=100), max_retries=0)
    assert "hung: no answer to a step within 1 s" in caplog.text
    play(make_tasks(tmp_path, "dies", times=200), max_retries=0)
    assert "died, exit code -9" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_where_every_task_fails_the_run_ends_with_the_cause(tmp_path, workers):
    tasks = make_tasks(tmp_path, times=100)[1:2]
    with pytest.raises(RunError, match=r"(?s)failed on every task; on task 'task 1':.*the bridge fell down"):
        play(tasks, workers=workers)


def test_no_retry_takes_another_noise(tmp_path):
    _, _, struck = play(make_tasks(tmp_path), workers=0)
    _, _, peaceful = play(make_tasks(tmp_path, times=0), workers=0)
    assert {request.seed for request in struck.engine.requests} == {r.seed for r in peaceful.engine.requests}


def test_no_request_is_made_twice(tmp_path):
    _, _, player = play(make_tasks(tmp_path, "dies", times=2))
    names = [request.request_id for request in player.engine.requests]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_slots_are_all_free_again_whatever_happened(tmp_path):
    player = collector()
    player.play(make_tasks(tmp_path, "dies", times=100), 3, noise_key=0, name="test")
    (task,) = make_tasks(tmp_path, times=0)[:1]
    assert sorted(player.pool.take_slot(task) for _ in range(6)) == list(range(6))
    assert player.pool.take_slot(task) is None
    player.pool.close()


def test_a_second_rollout_is_played_on_the_new_processes(tmp_path):
    player = collector()
    before = {process.pid for process in player.pool.processes}
    player.play(make_tasks(tmp_path, "dies"), 3, noise_key=0, name="first")
    after = {process.pid for process in player.pool.processes}
    groups, progress = player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="second")
    player.pool.close()
    assert len(before & after) == 1
    assert (len(groups), progress.retried) == (4, 0)


def test_a_dead_worker_leaves_no_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    play(make_tasks(tmp_path, "dies"))
    assert not list(tmp_path.glob("environment-*"))


def test_a_worker_that_cannot_start_ends_the_run_at_once():
    pool = make_pool(DiesAtOnce(), 2, 1)
    task = Task(task_id="a", kind="any")
    pool.reset(pool.take_slot(task), task)
    with pytest.raises(RunError, match="environment worker 0 died, exit code 3, before it had started"):
        pool.poll(block=True)
    pool.close()


@pytest.mark.slow
def test_deterministic_rollouts_do_everything_in_order(tmp_path):
    tasks = make_tasks(tmp_path, times=0)
    runs = [play(tasks, workers=workers, deterministic=True)[2].engine.requests for workers in (0, 1, 2, 3)]
    assert all([r.request_id for r in run] == [r.request_id for r in runs[0]] for run in runs)


@pytest.mark.slow
def test_deterministic_rollouts_do_not_depend_on_the_workers_timing(tmp_path):
    def requests():
        player = make_collector("up", pool=make_pool(Sluggish(), 6, 3), max_steps=5, deterministic=True)
        player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="test")
        player.pool.close()
        return [request.request_id for request in player.engine.requests]

    assert requests() == requests()


@pytest.mark.parametrize("name", ["start", "reset", "step"])
def test_a_deadline_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=rf"deadlines.{name} must be > 0 seconds, got 0.0"):
        Deadlines(**{name: 0.0})


def test_a_negative_number_of_retries_is_refused():
    with pytest.raises(ValueError, match="max_retries must be >= 0, got -1"):
        collector(max_retries=-1)


class Babbler:
    """A script for replies that no parser likes, and a tokenizer's worst text."""

    def __init__(self, token_ids: list[int], text: str) -> None:
        self.token_ids = token_ids
        self.text = text

    def player(self) -> Collector:
        player = make_collector("up", pool=make_pool(FaultyEnvironment(), 6, 0), max_steps=3)
        player.engine.script = lambda request: self.token_ids
        player.player.tokenizer.decode = lambda ids: self.text
        player.engine.load_weights([], 0)  # a stored step says whose it is
        return player


@pytest.mark.parametrize(
    ("token_ids", "text"),
    [([1, 1, 1, 1, 1, 1], "up up up up"), ([], ""), ([0], ""), ([1, 0], "\ufffd\ufffd"), ([1, 0], "\x00\ud800")],
    ids=["no end", "no token", "empty", "invalid UTF-8", "lone surrogate"],
)
def test_whatever_the_model_writes_is_an_action(tmp_path, token_ids, text):
    player = Babbler(token_ids, text).player()
    groups, progress = player.play(make_tasks(tmp_path, times=0), 2, noise_key=0, name="test")
    assert (progress.finished, progress.dropped, progress.retried) == (8, 0, 0)
    steps = [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
    assert len(steps) == 24
    assert {step.valid_action for step in steps} == {text.startswith("up")}
    assert {len(step.completion_ids) for step in steps} == {min(len(token_ids), 4)}  # max_tokens is 4
    write_trajectories(tmp_path / "written.parquet", groups)
    assert len(read_trajectories(tmp_path / "written.parquet")[0]) == 4


def test_what_an_engine_raises_ends_the_rollout_unchanged(tmp_path):
    player = collector(workers=0)
    script = player.engine.script

    def breaking(request):
        if len(player.engine.requests) > 5:
            raise ConnectionError("the engine is gone")
        return script(request)

    player.engine.script = breaking
    with pytest.raises(ConnectionError, match="the engine is gone"):
        player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="test")
