"""Environments that mostly wait hold up no other, not even in one worker process."""

import time

import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.rollout import Deadlines, make_pool
from tests.pool.waiting_environment import WaitingEnvironment


def open_pool(**deadlines):
    """Four episodes that have begun in one worker."""
    pool = make_pool(WaitingEnvironment(), 4, workers=1, deadlines=Deadlines(**deadlines))
    for name in "abcd":
        slot = pool.take_slot(Task(task_id=name, kind="waiting"))
        pool.reset(slot, Task(task_id=name, kind="waiting"))
    settle(pool, 4)
    return pool


@pytest.fixture
def pool():
    pool = open_pool()
    yield pool
    pool.close()


def settle(pool, count):
    """So many events, in their order."""
    events = []
    while len(events) < count:
        events += pool.poll(block=True)
    return events


def test_all_copies_of_a_worker_can_wait_at_the_same_time(pool):
    for slot in range(4):
        pool.step(slot, "meet")  # none of them passes before all are there
    events = settle(pool, 4)
    assert sorted(event.slot for event in events) == [0, 1, 2, 3]
    assert [event.failure for event in events] == [""] * 4


def test_one_that_waits_is_answered_after_those_that_do_not(pool):
    pool.step(0, "be released")
    for slot in (1, 2):
        pool.step(slot, "on")
    assert sorted(event.slot for event in settle(pool, 2)) == [1, 2]
    pool.step(1, "on")
    pool.step(3, "release")
    events = settle(pool, 3)
    assert sorted(event.slot for event in events) == [0, 1, 3]
    assert [event.failure for event in events] == [""] * 3


@pytest.mark.slow
def test_one_that_hangs_is_found_however_busy_the_others_are():
    pool = open_pool(step=3.0)
    try:
        pool.step(0, "hang")
        lost = []
        while not lost:
            pool.step(1, "on")
            lost = [event for event in settle(pool, 1) if event.failure]
    finally:
        pool.close()
    assert "hung: no answer to a step within 3 s" in lost[0].failure
    assert {event.slot: event.bystander for event in lost} == {0: False, 1: True, 2: True, 3: True}


@pytest.mark.slow
def test_a_deadline_is_not_that_of_all_together():
    pool = open_pool(step=3.0)
    try:
        pool.step(0, "on")
        started = time.monotonic()
        while time.monotonic() - started < 3.5:  # one after another they take longer than one may
            settle(pool, 1)
            pool.step(0, "on")
        assert settle(pool, 1)[0].failure == ""
    finally:
        pool.close()
