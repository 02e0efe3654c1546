import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.rollout.tasks import epoch_tasks, more_tasks


def panel(size: int) -> TaskPanel:
    return TaskPanel.from_tasks(Task(task_id=str(i), kind="any") for i in range(size))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 100), st.integers(0, 5))
def test_no_epoch_plays_a_task_twice(size: int, count: int, epoch: int, seed: int):
    if count > size:
        return
    chosen = [task.task_id for task in epoch_tasks(panel(size), count, epoch, seed)]
    assert len(set(chosen)) == count


def test_a_pass_plays_every_task_once():
    played = [t.task_id for epoch in range(4) for t in epoch_tasks(panel(12), 3, epoch, seed=0)]
    assert sorted(played, key=int) == [str(i) for i in range(12)]


def test_each_pass_has_an_order_of_its_own():
    first, second = ([t.task_id for e in range(4) for t in epoch_tasks(panel(12), 3, e + 4 * n, 0)] for n in (0, 1))
    assert first != second


def test_more_tasks_than_the_panel_holds_are_refused():
    with pytest.raises(ValueError, match="tasks_per_epoch must be <= the panel's 3 tasks, got 4"):
        epoch_tasks(panel(3), 4, 0, 0)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 3))
def test_more_tasks_are_others_than_those_played(size: int, num_played: int, missing: int, epoch: int):
    played = panel(size).tasks[:num_played]
    more = [task.task_id for task in more_tasks(panel(size), played, missing, epoch, seed=0)]
    assert len(more) == len(set(more)) == min(missing, size - len(played))
    assert not set(more) & {task.task_id for task in played}


def test_more_tasks_are_the_same_for_the_same_epoch_and_others_for_another():
    first, again, other = (
        [task.task_id for task in more_tasks(panel(50), [], 10, epoch, seed=0)] for epoch in (1, 1, 2)
    )
    assert first == again != other


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 4))
def test_no_two_ranks_are_given_the_same_task(size: int, num_played: int, ranks: int):
    played = panel(size).tasks[:num_played]
    given = [task.task_id for rank in range(ranks) for task in more_tasks(panel(size), played, 20, 1, 0, rank, ranks)]
    assert sorted(given) == sorted(task.task_id for task in panel(size).tasks[num_played:])
