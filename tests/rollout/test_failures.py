"""A cause is told once, with its traceback; then it is counted."""

import logging

import pytest

from gigpo_lightning.rollout.failures import FailureLog, cause_of, in_short

STORY = """Traceback (most recent call last):
  File "house.py", line 3, in reset
    raise RuntimeError("fire in room {}")
RuntimeError: fire in room {}
"""


@pytest.fixture
def told(caplog):
    """What a log has said, the lines of DEBUG left out."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_of_many_failures_for_one_cause_one_has_a_traceback(told):
    log = FailureLog()
    for room in range(20):
        log.note(f"task {room}", STORY.format(room, room), dropped=room > 17)
    log.end_rollout("epoch 0")
    first, count, dropped = told()
    assert first.startswith("task 'task 0': its environment failed, the episode begins again:\nTraceback")
    assert count.startswith("epoch 0: environments failed 19 more times, as in the log above: RuntimeError: fire")
    assert dropped == "epoch 0: dropped the tasks 'task 18', 'task 19'"


def test_another_cause_has_its_own_traceback(told):
    log = FailureLog()
    log.note("a", STORY.format(1, 1), dropped=False)
    log.note("b", STORY.replace("line 3", "line 4"), dropped=False)
    assert [message.count("Traceback") for message in told()] == [1, 1]


def test_a_later_rollout_counts_anew_and_does_not_tell_again(told):
    log = FailureLog()
    for name in ("epoch 0", "epoch 1"):
        log.note("a", STORY, dropped=True)
        log.end_rollout(name)
    assert told()[1:] == [
        "epoch 0: dropped the task 'a'",
        "epoch 1: environments failed 1 more times, as in the log above: RuntimeError: fire in room {}",
        "epoch 1: dropped the task 'a'",
    ]


def test_failures_that_are_new_each_time_do_not_fill_the_disk(told):
    log = FailureLog()
    for line in range(50):
        log.note("a", STORY.replace("line 3", f"line {line}"), dropped=False)
    assert sum(message.count("Traceback") for message in told()) == 20


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (STORY.format(1, 1), STORY.format(2, 2), True),
        ("Env: info must be a dictionary, but reset gave 3", "Env: info must be a dictionary, but step() gave 4", True),
        ("worker 3 died, exit code -9", "worker 4 died, exit code -9", True),
        ("worker 3 died, exit code -9", "worker 3 hung: no answer to a step within 60 s", False),
    ],
)  # fmt: skip
def test_values_make_no_other_cause(one, other, alike):
    assert (cause_of(one) == cause_of(other)) == alike


def test_an_error_after_a_traceback_names_its_last_line():
    assert in_short(STORY.format(1, 1)) == "RuntimeError: fire in room 1; the log has its traceback"
    assert in_short("worker 3 died") == "worker 3 died"
