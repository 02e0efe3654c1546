"""A slow part of a run says how far it is; a quick one says nothing."""

from gigpo_lightning.countdown import Countdown


def lines(*moments: tuple[float, float], total: int = 4) -> list[str]:
    """What is said at some seconds, so much being done."""
    clock = iter(second for second, _ in moments)
    countdown = Countdown("minibatch", every=20.0, clock=lambda: next(clock))
    return [countdown.line(float(done), total) for _, done in moments]


def test_nothing_is_said_before_it_is_due():
    assert lines((0, 0), (19, 1), (21, 2)) == ["", "", "minibatch 3 of 4, about 21 s left"]


def test_lines_are_so_many_seconds_apart():
    assert [bool(line) for line in lines((0, 0), (25, 1), (30, 2), (46, 3))] == [False, True, False, True]


def test_a_part_of_one_counts():
    assert lines((0, 0), (30, 0.5))[1] == "minibatch 1 of 4, about 210 s left"


def test_the_end_is_no_news():
    assert lines((0, 0), (300, 4))[1] == ""


def test_the_next_epoch_begins_anew():
    assert lines((0, 0), (100, 4), (200, 0), (210, 1)) == ["", "", "", ""]


def test_little_that_is_left_is_no_news():
    assert lines((0, 0), (30, 3.9))[1] == ""
