"""Groups that say nothing are replaced by others, and only as many as are missing."""

from collections.abc import Sequence

import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import NothingPlayedError, RunError
from gigpo_lightning.rollout import DynamicSampling, GroupSampler, VariedReturns
from gigpo_lightning.rollout.group_sampler import play_groups
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.trajectory import TrajectoryGroup
from tests.episodes import step, trajectory

TASKS = [Task(task_id=f"task {number}", kind="any") for number in range(9)]


def group_of(task: Task, *returns: float) -> TrajectoryGroup:
    episodes = tuple(trajectory(step(), step(reward=value), episode_index=i) for i, value in enumerate(returns))
    return TrajectoryGroup(task_id=task.task_id, trajectories=episodes)


class Player:
    """Plays two episodes a task: both win or both lose, but for the tasks named."""

    def __init__(self, *interesting: int):
        self.interesting = {f"task {number}" for number in interesting}
        self.rounds: list[list[str]] = []

    def play(self, tasks: Sequence[Task]) -> tuple[list[TrajectoryGroup], RolloutProgress]:
        self.rounds.append([task.task_id for task in tasks])
        groups = [group_of(task, 10.0, 0.0 if task.task_id in self.interesting else 10.0) for task in tasks]
        return groups, RolloutProgress(name="round", total=2 * len(tasks), finished=2 * len(tasks), steps=len(tasks))

    def more(self, played: Sequence[Task], missing: int) -> Sequence[Task]:
        return [task for task in TASKS if task not in played][:missing]

    def run(self, sampler: GroupSampler | None, num_tasks: int = 3):
        return play_groups(self.play, TASKS[:num_tasks], self.more, sampler)


def names(groups: Sequence[TrajectoryGroup]) -> list[str]:
    return [group.task_id for group in groups]


def test_equal_returns_are_discarded_whatever_they_are():
    assert not DynamicSampling().keep(group_of(TASKS[0], 0.0, 0.0, 0.0))
    assert not DynamicSampling().keep(group_of(TASKS[0], 10.0, 10.0))
    assert DynamicSampling().keep(group_of(TASKS[0], 10.0, 10.0, 0.0))


def test_only_as_many_new_groups_are_played_as_are_missing():
    player = Player(1, 4, 5)
    result = player.run(DynamicSampling())
    assert player.rounds == [["task 0", "task 1", "task 2"], ["task 3", "task 4"], ["task 5"]]
    assert names(result.groups) == ["task 1", "task 4", "task 5"]
    assert names(result.discarded) == ["task 0", "task 2", "task 3"]


def test_all_rounds_are_counted():
    result = Player(1, 4, 5).run(DynamicSampling())
    assert (result.rounds, result.progress.total, result.progress.finished, result.progress.steps) == (3, 12, 12, 6)


def test_after_the_last_round_the_update_has_what_there_is(caplog):
    player = Player(1)
    assert names(player.run(DynamicSampling(max_rounds=2)).groups) == ["task 1"]
    assert len(player.rounds) == 2
    assert "1 of 3 groups were kept in 2 rounds" in caplog.text


def test_no_task_is_played_twice_and_none_left_ends_it():
    player = Player()
    result = player.run(DynamicSampling(max_rounds=100), num_tasks=4)
    assert sorted(name for names_ in player.rounds for name in names_) == [task.task_id for task in TASKS]
    assert len(result.groups) == 4  # nothing was worth keeping, but an update needs steps


def test_one_round_only_discards():
    player = Player(0, 2)
    result = player.run(DynamicSampling(max_rounds=1))
    assert (len(player.rounds), names(result.groups)) == (1, ["task 0", "task 2"])


def test_a_round_of_which_nothing_can_be_played_loses_nothing_else():
    player = Player(1, 4, 5)
    play = player.play

    def failing(tasks):
        played = play(tasks)
        if len(player.rounds) == 2:
            raise NothingPlayedError("the environment failed on every task")
        return played

    player.play = failing
    result = player.run(DynamicSampling())
    assert player.rounds[1:] == [["task 3", "task 4"], ["task 5", "task 6"], ["task 7"], ["task 8"]]
    assert names(result.groups) == ["task 1", "task 5"]


def test_without_a_sampler_everything_is_kept():
    result = Player().run(None)
    assert (len(result.groups), result.discarded, result.rounds) == (3, (), 1)


def test_no_round_at_all_is_refused():
    with pytest.raises(ValueError, match="max_rounds must be >= 1, got 0"):
        DynamicSampling(max_rounds=0)


def spread_by(*deviations: float) -> list[TrajectoryGroup]:
    """Groups of two returns with these standard deviations."""
    return [group_of(task, 0.0, value * 2**0.5) for task, value in zip(TASKS, deviations, strict=False)]


def test_the_groups_whose_returns_vary_most_are_kept_by_hand():
    assert VariedReturns(0.5).keep_of(spread_by(0.0, 0.5, 0.4, 0.1)) == [False, True, True, False]


def test_of_groups_that_vary_alike_the_first_are_kept():
    assert VariedReturns(0.5).keep_of(spread_by(0.1, 0.3, 0.3, 0.3)) == [False, True, True, False]


@pytest.mark.parametrize(("share", "kept"), [(0.25, 1), (0.1, 1), (0.6, 3), (1.0, 6)])
def test_the_share_is_rounded_down_but_leaves_one(share: float, kept: int):
    assert sum(VariedReturns(share).keep_of(spread_by(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))) == kept


def test_no_other_group_is_played_for_those_that_vary_little(caplog):
    player = Player(1)
    result = player.run(VariedReturns(0.4))
    assert (player.rounds, names(result.groups)) == ([["task 0", "task 1", "task 2"]], ["task 1"])
    assert names(result.discarded) == ["task 0", "task 2"]
    assert "were kept" not in caplog.text


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_without_meaning_is_refused(share: float):
    with pytest.raises(ValueError, match="share must be in"):
        VariedReturns(share)


def test_an_engine_that_is_lost_in_a_later_round_ends_the_rollout():
    calls = []

    def play(tasks):
        calls.append(tasks)
        if len(calls) == 2:
            raise RunError("no vLLM server is left")
        return [group_of(task, 0.0, 0.0) for task in tasks], RolloutProgress(name="x", total=2)

    with pytest.raises(RunError, match="no vLLM server is left"):
        play_groups(play, TASKS[:1], lambda played, missing: TASKS[1:2], DynamicSampling())
