"""Held-out splits are held out, and a source that would play a misspelt split is found."""

import pytest

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.gridworld import GridworldTasks
from gigpo_lightning.environments.splits import (
    check_apart,
    check_source,
    check_split_names,
    read_panel,
    with_training_panel,
)


def panel(*names: str, fingerprint: str = "") -> TaskPanel:
    return TaskPanel.from_tasks(Task(task_id=name, kind="any", fingerprint=fingerprint) for name in names)


class Listed:
    """A source with a dictionary of splits."""

    def __init__(self, **panels: TaskPanel) -> None:
        self.panels = panels

    def prepare(self) -> None:
        """Nothing is needed."""

    def panel(self, split: str) -> TaskPanel:
        return self.panels[split]


class Careless(Listed):
    """A source that takes every unknown split for the one that it trains on."""

    def panel(self, split: str) -> TaskPanel:
        return self.panels.get(split, self.panels["train"])


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["dev", "test", "dev"], "held_out_splits must name each split once, got 'dev' twice"),
        (["dev", "train"], "held_out_splits must not name the split that is trained on, got 'train'"),
    ],
)
def test_names_that_cannot_be_held_out_are_refused(splits: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message} \(allow_shared_tasks: true allows it\)"):
        check_split_names("held_out_splits", splits, "train")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["dev"], "1 of the 2 tasks of 'dev' are tasks of 'train' too, such as 'b'"),
        (["test", "unseen"], "2 of the 2 tasks of 'unseen' are tasks of 'test' too, such as 'd'"),
    ],
)
def test_splits_that_share_a_task_are_refused(splits: list[str], message: str) -> None:
    panels = {"train": panel("a", "b"), "dev": panel("b", "c"), "test": panel("e", "d"), "unseen": panel("d", "e")}
    with pytest.raises(ValueError, match=rf"test_splits must share no task .*, but {message} \(allow_shared_tasks"):
        check_apart("test_splits", splits, panels, "train")


def test_tasks_of_one_number_and_other_content_are_different_tasks() -> None:
    panels = {"train": panel("nq/0", fingerprint="who?"), "test": panel("nq/0", fingerprint="when?")}
    check_apart("test_splits", ["test"], panels, "train")


def test_a_split_that_the_source_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be known to Listed, got 'tset': KeyError"):
        read_panel(Listed(test=panel("a")), "tset")


def test_a_split_without_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match="split must have at least one task, but Listed lists none for 'test'"):
        read_panel(Listed(test=panel()), "test")


def test_a_source_that_refuses_unknown_splits_passes() -> None:
    check_source(GridworldTasks(), ("train", "valid_seen", "valid_unseen"))
    check_source(Listed(train=panel("a"), test=panel("b")), ("train", "test"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Careless(train=panel("a"), test=panel("b")), "a source must refuse a split that it has not, .* lists 1 tasks"),
        (Listed(train=panel("a"), test=panel("b", "a")), "1 of the 2 tasks of 'test' are tasks of 'train' too"),
        (Listed(train=panel("a")), "split must be known to Listed, got 'test'"),
    ],
)
def test_a_source_that_breaks_a_rule_is_refused(source: Listed, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_source(source, ("train", "test"))


def test_a_source_that_changes_its_tasks_is_refused() -> None:
    class Fickle(Listed):
        def panel(self, split: str) -> TaskPanel:
            self.asked = getattr(self, "asked", 0) + 1
            return panel(f"{split} {self.asked}")

    with pytest.raises(ValueError, match="a split must always have the same tasks, but 'train' gave others when asked"):
        check_source(Fickle(), ("train", "test"))


def test_a_training_split_that_cannot_be_read_is_no_reason_not_to_test(caplog):
    class Unreadable:
        def prepare(self): ...

        def panel(self, split):
            raise PermissionError(f"{split} is another user's")

    assert with_training_panel({}, Unreadable(), "train") == {}
    assert "are not compared with those of train_split 'train': train is another user's" in caplog.text
