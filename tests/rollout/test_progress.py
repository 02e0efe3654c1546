"""The line that says how a rollout goes: live in a terminal, now and then in a log."""

import logging

import pytest

from gigpo_lightning.rollout.progress import CutWatch, ProgressDisplay, RolloutProgress, SuccessWatch
from tests.episodes import group, step, trajectory


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

    monkeypatch.setattr("gigpo_lightning.rollout.progress.time.perf_counter", lambda: Clock.now)
    return Clock


def test_the_line_says_how_far_how_well_and_how_fast(clock):
    progress = RolloutProgress(name="epoch 3", total=8, finished=4, successes=1, steps=40, tokens=100, started=100.0)
    progress.note_environment("a", 0.25)
    clock.now += 2
    assert (
        progress.line() == "epoch 3: success .25 in 4/8 episodes, 20 steps/s, 50 tokens/s, slowest environment 0.25 s"
    )


def test_before_the_first_episode_has_ended_no_success_is_claimed(clock):
    assert "success - in 0/8" in RolloutProgress(name="x", total=8, started=100.0).line()


def test_a_log_gets_a_line_now_and_then(clock, caplog):
    caplog.set_level(logging.INFO)
    display = ProgressDisplay(log_every=30.0)
    progress = RolloutProgress(name="x", total=8, started=100.0)
    with display.showing(progress):
        for _ in range(65):
            clock.now += 1
            display.update(progress)
    assert len(caplog.messages) == 2


def test_a_quick_rollout_leaves_no_line_in_the_log(clock, caplog):
    caplog.set_level(logging.INFO)
    display = ProgressDisplay(log_every=30.0)
    with display.showing(progress := RolloutProgress(name="x", total=8, started=100.0)):
        clock.now += 29
        display.update(progress)
    assert caplog.messages == []


def test_a_terminal_shows_the_line_live(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda console: True))
    display = ProgressDisplay()
    progress = RolloutProgress(name="epoch 3", total=8, started=100.0)
    with display.showing(progress):
        progress.finished = 8
        clock.now += 1
        display.update(progress)
    assert "epoch 3: success .00 in 8/8 episodes" in capsys.readouterr().err


def test_a_rollout_that_never_says_whether_it_succeeded_is_told_so_once(caplog):
    watch = SuccessWatch()
    for number in range(2):
        watch.look_at(RolloutProgress(name=f"epoch {number}", total=8, finished=8))
    (message,) = caplog.messages
    assert message.startswith(
        "epoch 0: info['success'] came in none of 8 episodes, which so count as failed: set it to"
    )


@pytest.mark.parametrize("counts", [{"finished": 8, "judged": 1}, {"finished": 0}])
def test_one_episode_that_says_so_is_enough_and_none_is_asked_for_nothing(counts, caplog):
    SuccessWatch().look_at(RolloutProgress(name="x", total=8, **counts))
    assert caplog.messages == []


def test_prompts_that_were_cut_are_told_of_once(caplog):
    whole, cut = (group(trajectory(*[step(prompt_truncated=is_cut)] * 2)) for is_cut in (False, True))
    watch = CutWatch()
    for number, groups in enumerate([[whole], [whole, cut], [cut]]):
        watch.look_at(f"epoch {number}", groups, 64)
    (message,) = caplog.messages
    assert message.startswith("epoch 1: 2 of 4 prompts were cut to fit into 64 tokens (max_model_len, the reply incl")
