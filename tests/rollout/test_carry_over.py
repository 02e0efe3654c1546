"""Groups that go on in the next rollout: none is lost, none is played twice, none grows too old."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import CarryOver
from gigpo_lightning.rollout.carry_over import CarriedEpisodes
from tests.rollout.test_collector import countdown, countdown_collector


def play(player, state, tasks, epoch, wanted, group_size=2):
    player.engine.load_weights([], epoch)
    return player.play(tasks, group_size, noise_key=epoch, name="test", carried=state, wanted=wanted)


def lengths(group):
    return [len(trajectory.steps) for trajectory in group.trajectories]


def versions(group):
    return [[step.policy_version for step in trajectory.steps] for trajectory in group.trajectories]


def test_a_rollout_stops_with_the_groups_it_wants_and_the_next_goes_on_with_the_others():
    player, state = countdown_collector(num_slots=6), CarriedEpisodes()
    player.engine.completions_per_poll = 6
    first, progress = play(player, state, countdown(1, 2, 5), 0, wanted=2)
    assert [lengths(group) for group in first] == [[1, 1], [2, 2]]
    assert (progress.total, progress.finished, progress.carried, progress.steps) == (6, 4, 2, 10)
    second, progress = play(player, state, countdown(9, 9), 1, wanted=1)
    # Two steps had been taken under the first weights, none of them is taken again, and the reward goes on.
    assert [lengths(group) for group in second] == [[5, 5]]
    assert versions(second[0]) == [[0, 0, 1, 1, 1]] * 2
    assert [step.reward for step in second[0].trajectories[0].steps] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (progress.total, progress.finished, progress.carried) == (6, 2, 4)  # two were carried here, four are now


def test_what_is_written_when_a_rollout_stops_keeps_the_version_that_wrote_it():
    player, state = countdown_collector(num_slots=4), CarriedEpisodes()
    player.engine.completions_per_poll = 1  # the other replies are under way when the short group is complete
    play(player, state, countdown(1, 3), 0, wanted=1)
    (group,), _ = play(player, state, [], 1, wanted=1)
    assert {tuple(each) for each in versions(group)} <= {(0, 1, 1), (0, 0, 1)}
    assert not player.engine.poll()


def test_a_group_that_has_been_carried_often_enough_is_waited_for():
    for max_staleness, epochs in ((1, [0, 1]), (2, [0, 2]), (3, [0, 3])):
        player, state, given = countdown_collector(num_slots=100, max_steps=60), CarriedEpisodes(), {}
        for epoch in range(4):
            state.oldest = epoch - max_staleness + 1
            tasks = countdown(50, 1) if epoch == 0 else countdown(1)
            for group in play(player, state, tasks, epoch, wanted=1)[0]:
                given.setdefault(len(group.trajectories[0].steps), []).append(epoch)
        assert given[50] == epochs[1:], max_staleness


def test_an_evaluation_s_key_is_never_too_old():
    state = CarriedEpisodes(oldest=5)
    assert len(play(countdown_collector(), state, countdown(1, 2), 7, wanted=1)[0]) == 1
    state = CarriedEpisodes(oldest=5)
    groups, _ = countdown_collector().play(countdown(1, 2), 1, noise_key="held-out", name="x", carried=state, wanted=1)
    assert len(groups) == 1


@pytest.mark.slow
@given(
    epochs=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=1, max_size=5),
    max_staleness=st.integers(1, 3),
    num_slots=st.integers(1, 12),
    per_poll=st.integers(1, 5),
    deterministic=st.booleans(),
)
def test_every_group_is_given_away_once_and_is_what_it_would_have_been(
    epochs, max_staleness, num_slots, per_poll, deterministic
):
    player, state = countdown_collector(num_slots=num_slots, deterministic=deterministic), CarriedEpisodes()
    player.engine.completions_per_poll = per_poll
    given_away, in_flight = [], 0
    for epoch, steps in enumerate(epochs):
        state.oldest = epoch - max_staleness + 1
        tasks = [task for number in steps for task in countdown(number)]
        groups, progress = play(player, state, tasks, epoch, wanted=len(steps) - 1)
        in_flight += len(steps) - len(groups)
        assert progress.finished + progress.carried == progress.total
        assert len(state.groups) == in_flight
        assert len(groups) <= len(steps) - 1
        for group in groups:
            assert all(of_episode == sorted(of_episode) for of_episode in versions(group))
            given_away.append(group)
        # Whatever should be complete by now is; it may wait for its update, but plays no more.
        unfinished = [group for group in state.groups if len(group.finished) < 2]
        assert all(epoch - group.noise_key < max_staleness for group in unfinished)
    state.oldest = len(epochs)
    given_away += play(player, state, [], len(epochs), wanted=in_flight)[0]
    assert not state.groups
    assert not state.running
    begun = [f"count {number}" for steps in epochs for number in steps]
    assert sorted(group.task_id for group in given_away) == sorted(begun)
    assert all(lengths(group) == [int(group.task_id.split()[1])] * 2 for group in given_away)


def test_a_carried_group_that_fails_is_dropped_and_counted():
    player, state = countdown_collector("up", "up", "fail", num_slots=4, max_retries=0), CarriedEpisodes()
    player.engine.completions_per_poll = 4
    _, progress = play(player, state, countdown(1, 9), 0, wanted=1)
    assert (progress.finished, progress.carried, progress.dropped) == (2, 2, 0)
    groups, progress = play(player, state, countdown(2), 1, wanted=2)
    assert [group.task_id for group in groups] == ["count 2"]
    assert (progress.total, progress.finished, progress.carried, progress.dropped) == (4, 2, 0, 2)
    assert not state.groups
    assert not state.running


def test_an_episode_that_ended_before_its_group_was_dropped_is_not_counted_twice():
    player, state = countdown_collector("up", "up", "fail", num_slots=4, max_retries=0), CarriedEpisodes()
    player.engine.completions_per_poll = 1
    begun = [countdown(2, 9), countdown(2)]
    totals = [play(player, state, tasks, epoch, wanted=2 * epoch or 1)[1] for epoch, tasks in enumerate(begun)]
    assert sum(each.finished + each.dropped for each in totals) == 6
    assert totals[-1].dropped > 0
    assert totals[-1].carried == 0


def test_the_counts_add_up_over_rollouts_that_drop_and_carry():
    player, state = countdown_collector("up", "up", "fail", num_slots=6, max_retries=1), CarriedEpisodes()
    begun = finished = dropped = given = 0
    for epoch in range(4):
        steps = (1, 2, 4)
        groups, progress = play(player, state, countdown(*steps), epoch, wanted=2)
        begun += 2 * len(steps)
        finished += progress.finished
        dropped += progress.dropped
        given += sum(len(group.trajectories) for group in groups)
        assert progress.finished + progress.dropped + progress.carried == progress.total
        assert begun == finished + dropped + progress.carried
        assert finished >= given
    assert dropped > 0


def test_where_everything_fails_the_carried_groups_do_not_hide_it():
    player, state = countdown_collector("fail", max_retries=0), CarriedEpisodes()
    with pytest.raises(RunError, match="the environment failed on every task"):
        play(player, state, countdown(3, 3), 0, wanted=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_deterministic_rollouts_carry_the_same_episodes_every_time(workers):
    def run():
        player, state = countdown_collector(num_slots=6, workers=workers, deterministic=True), CarriedEpisodes()
        episodes = []
        for epoch in range(3):
            groups, _ = play(player, state, countdown(1, 4, 6), epoch, wanted=2)
            episodes.append([(group.task_id, versions(group)) for group in groups])
        player.pool.close()
        return episodes, [(request.request_id, request.prompt_ids, request.seed) for request in player.engine.requests]

    assert run() == run()


@pytest.mark.parametrize("name", ["extra_groups", "max_staleness"])
def test_numbers_that_carry_nothing_are_refused(name):
    with pytest.raises(ValueError, match=rf"carry_over.{name} must be >= 1, got 0"):
        CarryOver(**{"extra_groups": 1} | {name: 0})


def test_a_pool_without_a_free_slot_is_an_error_and_no_endless_wait():
    player = countdown_collector(num_slots=1)
    (task,) = countdown(2)
    player.pool.take_slot(task)  # by somebody who never gives it back
    with pytest.raises(RunError, match="no environment slot is free for 2 episodes"):
        player.play([task], 2, noise_key=0, name="test")
