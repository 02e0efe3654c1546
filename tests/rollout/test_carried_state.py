"""A checkpoint holds carried episodes: who goes on from it plays as if nothing had happened."""

import io
import logging
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.pool.slots import EnvironmentEvent
from gigpo_lightning.rollout import make_pool
from gigpo_lightning.rollout.carried_state import CarriedState, restored_episodes, stored_episodes
from gigpo_lightning.rollout.carry_over import CarriedEpisodes, PausedEpisode
from gigpo_lightning.rollout.episode import Episode, Group
from gigpo_lightning.trajectory import Step, StopReason, Trajectory
from tests.rollout.players import gridworld_tasks, make_collector
from tests.rollout.test_carry_over import play
from tests.rollout.test_collector import countdown, countdown_collector


def panel_of(*tasks: Task) -> TaskPanel:
    return TaskPanel.from_tasks({task.task_id: task for task in tasks}.values())


def through_a_file(entry):
    """What a checkpoint's loader makes of it: without pickle."""
    file = io.BytesIO()
    torch.save(entry, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(state, panel, group_size=2):
    return restored_episodes(through_a_file(stored_episodes(state.at_rest(), group_size)), panel)


def where(state):
    """All that a state is, but for the slots' numbers."""

    def of(episode):
        steps = tuple(episode.steps)
        return (
            *(episode.group.index, episode.index, episode.attempt, episode.failures, episode.instruction),
            *(steps, tuple(episode.history), episode.event.observation, episode.event.anchor),
        )

    groups = [
        (group.task, group.index, group.noise_key, group.carried, list(group.finished.items()))
        for group in state.groups
    ]
    waiting = [(of(episode), episode.request) for episode in state.waiting.values()]
    stepping = [of(episode) for slot, episode in state.running.items() if slot in state.stepping]
    running = [of(episode) for episode in state.running.values()]
    return groups, [of(episode) for episode in state.queue], running, waiting, stepping, state.begun


def episodes_of(make_player, epochs, stop_after=None, group_size=2, max_staleness=1):
    """What each epoch gives and asks for; with ``stop_after``, by two processes, one after the other."""
    player, state, told = make_player(), CarriedEpisodes(), []
    panel = panel_of(*(task for tasks in epochs for task in tasks))
    for epoch, tasks in enumerate(epochs):
        state.oldest = epoch - max_staleness + 1
        before = len(player.engine.requests)
        groups, progress = play(player, state, tasks, epoch, wanted=len(tasks) - 1, group_size=group_size)
        requests = [(each.request_id, each.prompt_ids, each.seed) for each in player.engine.requests[before:]]
        counts = progress.total, progress.finished, progress.carried, progress.dropped, progress.steps
        told.append((groups, requests, counts, where(state)))
        if epoch == stop_after:
            player.pool.close()
            first, player, state = player, make_player(), resumed(state, panel, group_size)
            player.player.tokenizer, player.engine.script = first.player.tokenizer, first.engine.script  # it grows
    player.pool.close()
    return told


@pytest.mark.parametrize(
    ("workers", "max_staleness"),
    [(0, 1), (0, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in [(1, 1), (2, 2)])],
)
def test_a_run_that_goes_on_from_a_checkpoint_plays_what_it_would_have_played(workers, max_staleness):
    def make_player():
        player = countdown_collector(num_slots=7, workers=workers, max_steps=20, deterministic=True)
        player.engine.completions_per_poll = 3
        return player

    epochs = [countdown(1, 2, 9), countdown(3, 6, 1), countdown(2, 8, 4), countdown(1, 5, 2)]
    whole = episodes_of(make_player, epochs, max_staleness=max_staleness)
    for last in range(3):
        assert episodes_of(make_player, epochs, last, max_staleness=max_staleness) == whole


def test_the_same_holds_in_the_gridworld():
    def make_player():
        return make_collector("up", "left", "down", max_steps=9, num_slots=9, deterministic=True)

    tasks = gridworld_tasks(12)
    epochs = [tasks[start : start + 4] for start in range(0, 12, 4)]
    whole = episodes_of(make_player, epochs, group_size=3)
    assert [episodes_of(make_player, epochs, last, group_size=3) for last in range(2)] == [whole] * 2


def test_what_waits_for_a_slot_is_begun_in_the_order_that_it_had():
    def make_player():
        return countdown_collector(num_slots=1, max_steps=20, deterministic=True)

    epochs = [countdown(1, 2, 3, 9), countdown(1, 2)]
    whole = episodes_of(make_player, epochs)
    assert len(whole[0][3][1]) == 2
    assert episodes_of(make_player, epochs, 0) == whole


def test_a_reset_that_was_not_heard_is_given_again_and_heard_in_the_rollout():
    (task,) = countdown(2)
    group = Group(task=task, index=0)
    state = CarriedEpisodes(groups=[group], begun=1)
    state.paused = [PausedEpisode(episode=Episode(group=group, index=index), waiting=None) for index in range(2)]
    player = countdown_collector(num_slots=2)
    groups, progress = play(player, resumed(state, panel_of(task)), [], 1, wanted=1)
    assert [len(each.steps) for each in groups[0].trajectories] == [2, 2]
    assert (progress.retried, progress.steps) == (0, 4)


@settings(max_examples=15)
@given(
    epochs=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=2, max_size=4),
    max_staleness=st.integers(1, 3),
    num_slots=st.integers(1, 12),
    per_poll=st.integers(1, 5),
    fails=st.booleans(),
    data=st.data(),
)
def test_where_a_run_is_cut_makes_no_difference(epochs, max_staleness, num_slots, per_poll, fails, data):
    def make_player():
        moves = ("up",) * 4 + ("fail",) if fails else ("up",)
        player = countdown_collector(*moves, num_slots=num_slots, max_retries=1, deterministic=True)
        player.engine.completions_per_poll = per_poll
        return player

    # Short ones too, so that failures leave something.
    tasks = [countdown(1, *steps) for steps in epochs]
    cut = data.draw(st.integers(0, len(epochs) - 2))
    whole = episodes_of(make_player, tasks, max_staleness=max_staleness)
    assert episodes_of(make_player, tasks, cut, max_staleness=max_staleness) == whole


texts = st.text(st.characters(), max_size=5)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
anchors = plain | st.tuples(plain, st.tuples(plain, plain)) | st.frozensets(plain | st.tuples(plain), max_size=3)
tokens = st.lists(st.integers(0, 200_000), max_size=4).map(tuple)
steps = st.builds(
    Step,
    observation=texts,
    anchor_key=anchors,
    prompt_ids=tokens,
    completion_ids=tokens,
    logprobs=st.lists(st.floats(allow_nan=False), max_size=4).map(tuple),
    response=texts,
    action=texts,
    valid_action=st.booleans(),
    reward=st.floats(allow_nan=False),
    policy_version=st.integers(0, 2**40),
    prompt_truncated=st.booleans(),
)


@given(
    finished=st.lists(st.lists(steps, max_size=3), max_size=3),
    under_way=st.lists(st.tuples(st.lists(steps, max_size=3), st.none() | st.integers(0, 9), anchors), max_size=3),
    said=st.tuples(texts, texts, st.none() | st.lists(texts, max_size=3).map(tuple)),
    noise_key=st.integers() | texts,
)
def test_whatever_is_carried_comes_back_equal(finished, under_way, said, noise_key):
    (task,) = countdown(3)
    group = Group(task=task, index=4, noise_key=noise_key, carried=len(finished))
    for index, each in enumerate(finished):
        group.finished[index] = Trajectory(
            task_id=task.task_id,
            kind=task.kind,
            episode_index=index,
            steps=tuple(each),
            success=bool(index % 2),
            stop_reason=list(StopReason)[index],
            final_observation=said[0],
        )
    state = CarriedEpisodes(groups=[group], queue=[Episode(group=group, index=9, attempt=2, failures=1)], begun=7)
    for index, (taken, waiting, anchor) in enumerate(under_way):
        event = EnvironmentEvent(slot=-1, observation=said[0], anchor=anchor, admissible_actions=said[2])
        history = [(step.observation, step.action) for step in taken]
        episode = Episode(
            group=group, index=index, instruction=said[1], event=event, steps=list(taken), history=history
        )
        state.paused.append(PausedEpisode(episode=episode, waiting=waiting))
    back = resumed(state, panel_of(task))
    assert where(back) == where(state)
    assert [each.waiting for each in back.paused] == [each.waiting for each in state.paused]
    as_before = [where(CarriedEpisodes(queue=[each.episode for each in one.paused])) for one in (back, state)]
    assert as_before[0] == as_before[1]
    again = [each.episode.event for one in (back, state) for each in one.paused]
    assert again[: len(under_way)] == again[len(under_way) :]


def test_numpy_s_anchors_come_back_as_equal_ones():
    (task,) = countdown(3)
    group = Group(task=task, index=0)
    state = CarriedEpisodes(groups=[group])
    for anchor in (np.int64(3), np.float32(0.1), np.str_("here"), (np.bool_(True), "x")):
        event = EnvironmentEvent(slot=-1, anchor=anchor)
        state.paused.append(PausedEpisode(episode=Episode(group=group, index=0, event=event), waiting=0))
    for old, new in zip(state.paused, resumed(state, panel_of(task)).paused, strict=True):
        assert new.episode.event.anchor == old.episode.event.anchor
        assert hash(new.episode.event.anchor) == hash(old.episode.event.anchor)


def test_a_copy_at_rest_stays_as_it_is_while_its_original_is_played():
    player, state = countdown_collector(num_slots=5), CarriedEpisodes()
    play(player, state, countdown(1, 6, 7), 0, wanted=1)
    copy = state.at_rest()
    stored = stored_episodes(copy, 2)
    play(player, state, countdown(2), 1, wanted=3)
    assert str(stored_episodes(copy, 2)) == str(stored)
    assert str(stored_episodes(copy.at_rest(), 2)) == str(stored)


class Drifting(gymnasium.Env[str, str]):
    """Says what a file tells it to: another process's world may have changed. ``left`` counts down."""

    def reset(self, *, seed=None, options=None):
        self.world, self.taken = options["task"].payload["world"], 0
        return self.say("reset"), {"anchor": self.world.get("anchor", "a")}

    def step(self, action):
        self.taken += 1
        over = self.taken >= 4
        reward = float(self.world.get("reward", 1))
        return self.say("step"), reward, over, self.world.get("over") == self.taken, {"success": over}

    def say(self, when):
        if self.world.get("fails") == self.taken:
            raise RuntimeError("the bridge fell down")
        return f"{when} {self.taken} {self.world.get('word', '')}"


def drifting(world):
    """One group that ends at once beside one that has taken two or three steps, and what it finds when it goes on."""

    def make_player():
        return make_collector("up", max_steps=9, pool=make_pool(Drifting(), 4, 0), deterministic=True, max_retries=1)

    def task(name, **payload):
        return Task(task_id=name, kind="drift", payload={"world": payload})

    state = CarriedEpisodes()
    play(make_player(), state, [task("short", over=2), task("long")], 0, wanted=1)
    player, back = make_player(), resumed(state, panel_of(task("long", **world)))
    groups, progress = play(player, back, [task("other")], 1, wanted=2)
    return groups, progress, player.engine.requests


@pytest.mark.parametrize(
    ("world", "what"),
    [
        ({"word": "another"}, "its instruction was 'reset 0 ' and is 'reset 0 another' now"),
        ({"anchor": "b"}, "after 0 steps its anchor was 'a' and is 'b' now"),
        ({"reward": 2}, "after 1 steps its reward was 1.0 and is 2.0 now"),
        ({"over": 1}, "after 1 steps its truncated was False and is True now"),
    ],
)
def test_an_environment_that_says_something_else_begins_again(world, what, caplog):
    with caplog.at_level(logging.INFO):
        groups, progress, requests = drifting(world)
    assert progress.retried == 2
    assert what in caplog.text
    assert "2 begin again from their start, as of task 'long': its environment is not deterministic" in caplog.text
    (long,) = (group for group in groups if group.task_id == "long")
    assert {step.policy_version for each in long.trajectories for step in each.steps} == {1}
    # From its start, with the noise that it had.
    assert {each.request_id for each in requests} >= {"1/0/1/0", "1/1/1/0"}
    assert progress.finished + progress.carried + progress.dropped == progress.total


def test_an_environment_that_says_the_same_goes_on():
    groups, progress, _ = drifting({})
    assert progress.retried == 0
    (long,) = (group for group in groups if group.task_id == "long")
    assert [[step.policy_version for step in each.steps] for each in long.trajectories] == [[0, 0, 1, 1]] * 2


def test_an_environment_that_fails_while_it_is_brought_back_has_its_group_dropped_in_the_end(caplog):
    groups, progress, _ = drifting({"fails": 1})
    assert [group.task_id for group in groups] == ["other"]
    assert progress.dropped == 2
    assert progress.retried >= 1
    assert "the bridge fell down" in caplog.text
    assert progress.finished + progress.carried + progress.dropped == progress.total


def test_episodes_for_which_there_is_no_slot_any_more_begin_again_later(caplog):
    player, state = countdown_collector(num_slots=6), CarriedEpisodes()
    play(player, state, countdown(1, 5, 6), 0, wanted=1)
    back = resumed(state, panel_of(*countdown(5, 6)))
    smaller = countdown_collector(num_slots=3)
    groups, progress = play(smaller, back, [], 1, wanted=2)
    assert progress.retried == 1
    assert "there are fewer environment slots than there were" in caplog.text
    assert [group.task_id for group in groups] == ["count 5", "count 6"]


def carried_state(max_staleness=1, group_size=2):
    """A state in the middle of a run: two groups under way, of epochs 0 and 1."""
    kept = CarriedState()
    player = countdown_collector(num_slots=8, max_steps=20)
    for epoch, tasks in enumerate([countdown(1, 9), countdown(1, 12)]):
        play(player, kept.play(epoch), tasks, epoch, wanted=1, group_size=group_size)
    return kept


PANEL = panel_of(*countdown(1, 9, 12))


def load(entry, group_size=2, rank=0, world_size=1, panel=PANEL):
    kept = CarriedState()
    kept.load(through_a_file(entry), panel, 2, group_size, rank, world_size)
    return kept.play(2)


def test_each_rank_takes_its_own_entry(monkeypatch):
    other = CarriedEpisodes()
    play(countdown_collector(), other, countdown(1, 5), 0, wanted=1)
    theirs = stored_episodes(other.at_rest(), 2)
    monkeypatch.setattr("gigpo_lightning.rollout.carried_state.gather", lambda value: [value, theirs])
    entry = carried_state().state_dict(2, 2)
    panel = panel_of(*countdown(5, 9, 12))
    found = [load(entry, rank=rank, world_size=2, panel=panel) for rank in (0, 1)]
    assert [[group.task.task_id for group in each.groups] for each in found] == [["count 9", "count 12"], ["count 5"]]
    assert [len(each.paused) for each in found] == [4, 2]


@pytest.mark.parametrize("changes", [{"world_size": 2}, {"group_size": 3}])
def test_on_other_ranks_or_in_other_groups_the_groups_begin_again(changes, caplog):
    entry = carried_state().state_dict(2, 2)
    ranks, group_size = changes.get("world_size", 1), changes.get("group_size", 2)
    states = [load(entry, **changes, rank=rank) for rank in range(ranks)]
    assert [group.task.task_id for state in states for group in state.groups] == ["count 9", "count 12"]
    assert [group.noise_key for state in states for group in state.groups] == [0, 1]
    assert "the groups begin again from their start" in caplog.text
    for state in states:
        assert not state.paused
        assert len(state.queue) == group_size * len(state.groups)
        player, count = countdown_collector(num_slots=4, max_steps=20), len(state.groups)
        groups, progress = play(player, state, [], 2, wanted=count, group_size=group_size)
        assert len(groups) == count
        assert progress.finished == progress.total
        assert {step.policy_version for each in groups[0].trajectories for step in each.steps} == {2}


def test_what_another_version_wrote_is_left_out_and_the_log_says_so(caplog):
    assert not load({"format": 2, "groups": []}).groups
    assert "in a format of another version" in caplog.text


def test_a_task_that_is_not_in_the_panel_is_named():
    with pytest.raises(ValueError, match=r"checkpoint of a run with these training tasks; .* task 'count 9' is under"):
        load(carried_state().state_dict(2, 2), panel=panel_of(*countdown(1, 12)))


@dataclass(frozen=True)
class Place:
    name: str


def test_a_group_whose_anchors_a_checkpoint_cannot_hold_begins_again(caplog):
    state = carried_state().at_start_of(2)
    state.paused[0].episode.event = EnvironmentEvent(slot=-1, anchor=(1, Place("hall")))
    back = resumed(state, PANEL)
    assert "have others and begin again from their start when it is loaded, such as task 'count 9'" in caplog.text
    assert [each.episode.task.task_id for each in back.paused] == ["count 12"] * 2
    assert [(each.task.task_id, each.index, len(each.steps)) for each in back.queue] == [
        ("count 9", 1, 0),
        ("count 9", 0, 0),
    ]
    assert len(state.paused) == 4  # the run itself goes on with them


def test_an_epoch_that_was_broken_off_is_saved_as_it_began():
    kept = carried_state()
    before = str(kept.state_dict(2, 2))
    state = kept.play(2)
    state.groups.pop()
    state.queue.clear()
    assert str(kept.state_dict(2, 2)) == before  # it is played again, and must find what it found
    kept.lose_environments(2)
    assert str(kept.state_dict(2, 2)) == before
    assert len(kept.play(2).groups) == 2
    assert not kept.state_dict(3, 2)["ranks"][0]["queue"]
