"""A slow part of a run says how far it is; a quick one says nothing."""

from gigpo_lightning.countdown import Countdown
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


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


def test_an_update_says_after_each_micro_batch_how_far_it_is(tmp_path, monkeypatch):
    reached = []
    monkeypatch.setattr(Countdown, "reach", lambda self, done, total: reached.append((self.name, done, total)))
    module = tiny_module()
    data = walking_data(random_walk(module), minibatch_size=16, micro_batch_tokens=32)
    quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    of_update = [(done, total) for name, done, total in reached if name == "update: minibatch"]
    (total,) = {total for _, total in of_update}
    assert of_update[0] == (0, total)
    assert of_update[-1] == (total, total)
    assert len({done for done, _ in of_update}) > total + 1 > 2  # within a minibatch, too
