"""Slots keep their environments apart, and what goes wrong in one is told, not swallowed."""

import os

import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.pool.base import EnvironmentPool, make_pool
from tests.rollout.faulty_environment import CounterEnvironment


def tasks(*names: str) -> list[Task]:
    return [Task(task_id=name, kind="count") for name in names]


def settle(pool: EnvironmentPool, count: int):
    """As many events as were asked for, by slot."""
    events = []
    while len(events) < count:
        events += pool.poll(block=True)
    return {event.slot: event for event in events}


@pytest.fixture(params=[0, 2], ids=["in process", "two workers"])
def pool(request):
    pool = make_pool(CounterEnvironment(), 4, request.param)
    yield pool
    pool.close()


def test_every_slot_plays_its_own_episode(pool):
    slots = {}
    for task in tasks("a", "b", "c"):
        slots[task.task_id] = pool.take_slot(task)
        pool.reset(slots[task.task_id], task)
    settle(pool, 3)
    for name in ("a", "c"):
        pool.step(slots[name], "on")
    events = settle(pool, 2)
    assert {name: events[slots[name]].observation for name in ("a", "c")} == {"a": "a 1", "c": "c 1"}


def test_an_event_holds_all_that_the_environment_said(pool):
    (task,) = tasks("a")
    slot = pool.take_slot(task)
    pool.reset(slot, task)
    (event,) = settle(pool, 1).values()
    assert (event.observation, event.instruction, event.admissible_actions) == ("a 0", "count", ("on",))
    assert (event.anchor, event.reward, event.failure) == (("a", 0), 0.0, "")
    pool.step(slot, "stop")
    (event,) = settle(pool, 1).values()
    # What was not said has its default: the anchor is the observation, and there is no list of commands.
    assert (event.anchor, event.admissible_actions, event.reward) == ("a 1", None, 0.5)
    assert (event.terminated, event.truncated) == (False, True)


def test_there_are_as_many_slots_as_asked_for_and_a_freed_one_is_taken_again(pool):
    taken = [pool.take_slot(task) for task in tasks("a", "b", "c", "d")]
    assert sorted(taken) == [0, 1, 2, 3]
    assert pool.take_slot(*tasks("e")) is None
    pool.free_slot(taken[2])
    assert pool.take_slot(*tasks("e")) == taken[2]


def test_what_an_environment_raises_is_told_and_the_others_play_on(pool):
    first, second = tasks("a", "b")
    slots = [pool.take_slot(first), pool.take_slot(second)]
    for slot, task in zip(slots, (first, second), strict=True):
        pool.reset(slot, task)
    settle(pool, 2)
    pool.step(slots[0], "raise")
    pool.step(slots[1], "on")
    events = settle(pool, 2)
    assert "KeyError: 'lost'" in events[slots[0]].failure
    assert events[slots[1]].observation == "b 1"


def test_a_poll_that_does_not_block_returns_at_once(pool):
    assert pool.poll(block=False) == []
    assert pool.poll(block=True) == []  # nothing is under way, so there is nothing to wait for


class TestWorkers:
    def test_they_are_processes_of_their_own(self):
        pool = make_pool(CounterEnvironment(), 2, 2)
        slots = []
        for task in tasks("a", "b"):
            slots.append(pool.take_slot(task))
            pool.reset(slots[-1], task)
        settle(pool, 2)
        processes = [process.pid for process in pool.processes]
        assert len({os.getpid(), *processes}) == 3
        pool.close()

    def test_copies_of_one_task_share_one(self):
        pool = make_pool(CounterEnvironment(), 8, 2)
        by_task = {name: {pool.take_slot(*tasks(name)) % 2 for _ in range(4)} for name in ("a", "b")}
        assert [len(workers) for workers in by_task.values()] == [1, 1]
        assert by_task["a"] != by_task["b"]
        pool.close()

    def test_the_episodes_of_one_that_dies_are_told_why_and_the_others_are_not(self):
        pool = make_pool(CounterEnvironment(), 4, 2)
        slots = [pool.take_slot(task) for task in tasks("a", "a", "b")]
        for slot, task in zip(slots, tasks("a", "a", "b"), strict=True):
            pool.reset(slot, task)
        settle(pool, 3)
        pool.step(slots[0], "die")
        events = settle(pool, 2)
        assert events.keys() == {slots[0], slots[1]}  # the second lived in the same process
        assert {event.failure for event in events.values()} == {"the environment worker 0 died, exit code 7"}
        pool.step(slots[2], "on")
        assert settle(pool, 1)[slots[2]].observation == "b 1"
        pool.close()

    def test_another_takes_the_place_of_one_that_died(self):
        pool = make_pool(CounterEnvironment(), 1, 1)
        (task,) = tasks("a")
        for command in ("die", "on"):
            slot = pool.take_slot(task)
            pool.reset(slot, task)
            settle(pool, 1)
            pool.step(slot, command)
            (event,) = settle(pool, 1).values()
            pool.free_slot(slot)
        assert event.observation == "a 1"
        pool.close()

    def test_one_starts_without_torch(self):
        pool = make_pool(CounterEnvironment(), 1, 1)
        (task,) = tasks("a")
        slot = pool.take_slot(task)
        pool.reset(slot, task)
        settle(pool, 1)
        pool.step(slot, "modules")
        (event,) = settle(pool, 1).values()
        pool.close()
        assert "torch" not in event.anchor

    def test_there_are_no_more_of_them_than_slots(self):
        pool = make_pool(CounterEnvironment(), 1, 5)
        assert len(pool.processes) == 1
        pool.close()

    def test_closing_ends_them_and_may_be_done_twice(self):
        pool = make_pool(CounterEnvironment(), 2, 2)
        processes = list(pool.processes)
        pool.close()
        pool.close()
        assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize(("slots", "workers", "rule"), [(0, 0, "num_slots must be >= 1"), (1, -1, "workers must be")])
def test_a_number_out_of_range_is_refused(slots, workers, rule):
    with pytest.raises(ValueError, match=rf"{rule}.*got {min(slots, workers)}"):
        make_pool(CounterEnvironment(), slots, workers)


def test_what_a_worker_said_before_it_died_is_heard_though_a_command_finds_it_dead():
    pool = make_pool(CounterEnvironment(), 2, workers=1)
    first, second = tasks("a", "b")
    slots = [pool.take_slot(first), pool.take_slot(second)]
    for slot, task in zip(slots, (first, second), strict=True):
        pool.reset(slot, task)
    settle(pool, 2)
    pool.step(slots[0], "on")
    (worker,), (process,) = pool._workers, pool.processes
    assert worker.connection.poll(600)  # it has answered, and nobody listens
    process.kill()
    process.join()
    pool.step(slots[1], "on")
    events = pool.poll(block=True)
    assert (events[0].slot, events[0].observation) == (slots[0], "a 1")
    assert sorted(event.slot for event in events if event.failure) == sorted(slots)
    pool.close()
