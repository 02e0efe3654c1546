"""Carried episodes in a checkpoint, which is loaded without pickle: plain data and tensors."""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.pool.slots import EnvironmentEvent
from gigpo_lightning.ranks import gather
from gigpo_lightning.rollout.carry_over import CarriedEpisodes, PausedEpisode
from gigpo_lightning.rollout.episode import Episode, Group
from gigpo_lightning.trajectory import Step, StopReason, Trajectory

_logger = logging.getLogger(__name__)
_FORMAT = 1


class CarriedState:
    """The carried episodes of a run: those that are played, and a copy of those that the epoch began with.

    A checkpoint gets the copy. An epoch that was broken off, or whose update was, is played again by the run that goes
    on from there, and must find what it found. The copy also outlives the environments.
    """

    def __init__(self) -> None:
        self._played: CarriedEpisodes | None = None  # None: they have no environments
        self._epoch = -1
        self._at_start = CarriedEpisodes()

    def at_start_of(self, epoch: int) -> CarriedEpisodes:
        """The episodes that an epoch begins with; asked for before it begins, they are those that the last one left."""
        if self._epoch != epoch:
            self._epoch, self._at_start = epoch, (self._played or CarriedEpisodes()).at_rest()
        return self._at_start

    def play(self, epoch: int) -> CarriedEpisodes:
        """The episodes that an epoch's rollout goes on with."""
        at_start = self.at_start_of(epoch)
        if self._played is None:
            self._played = at_start.at_rest()
        return self._played

    def lose_environments(self, epoch: int) -> None:
        """Know that the environments are gone: if the epoch is played after all, then from its start."""
        self.at_start_of(epoch)
        self._played = None

    def state_dict(self, epoch: int, group_size: int) -> dict[str, Any]:
        """What the epoch begins with, of every rank; every rank must call it."""
        ranks = gather(stored_episodes(self.at_start_of(epoch), group_size))
        return {"format": _FORMAT, "group_size": group_size, "ranks": ranks}

    def load(
        self, state_dict: Mapping[str, Any], panel: TaskPanel, epoch: int, group_size: int, rank: int, world_size: int
    ) -> None:
        """Take back what the epoch begins with.

        Of another number of ranks, or with groups of another size, the groups are dealt out and begin again from their
        start. What another version wrote is left out, and the log says so.

        Raises:
            ValueError: If the panel lacks a task.
        """
        self._played, self._epoch, self._at_start = None, epoch, CarriedEpisodes()
        if state_dict.get("format") != _FORMAT:
            _logger.warning("the checkpoint's carried groups are in a format of another version: new ones are begun")
            return
        ranks = state_dict["ranks"]
        if (len(ranks), state_dict["group_size"]) == (world_size, group_size):
            self._at_start = restored_episodes(ranks[rank], panel)
            return
        _logger.warning(
            "the checkpoint's carried groups are those of %d ranks, with %d episodes a group; here they are %d and %d: "
            "the groups begin again from their start",
            *(len(ranks), state_dict["group_size"], world_size, group_size),
        )
        carried = [group for entry in ranks for group in restored_episodes(entry, panel).groups]
        distinct = {(group.task.task_id, group.noise_key): group for group in carried}  # or two had the same noise
        dealt = [replace(group, index=index) for index, group in enumerate(list(distinct.values())[rank::world_size])]
        self._at_start = CarriedEpisodes(groups=dealt, begun=len(dealt))
        self._at_start.begin_anew(dealt, group_size)


def stored_episodes(state: CarriedEpisodes, group_size: int) -> dict[str, Any]:
    """Paused episodes as plain data; a group with an anchor that is none begins again from its start.

    Args:
        state: None of its episodes may be under way but the paused ones.
        group_size: Episodes of a group.
    """
    assert not state.running
    foreign = [group for group in state.groups if not all(map(_is_plain, _anchors(state, group)))]
    if foreign:
        _logger.warning(
            "a checkpoint holds anchors that are strings, numbers, or tuples of them; %d carried groups have others "
            "and begin again from their start when it is loaded, such as task %r",
            *(len(foreign), foreign[0].task.task_id),
        )
        state = state.at_rest()
        foreign_ids = {group.index for group in foreign}
        state.begin_anew([group for group in state.groups if group.index in foreign_ids], group_size)
    episodes = [*state.queue, *(each.episode for each in state.paused)]
    groups = list({id(group): group for group in [*state.groups, *(each.group for each in episodes)]}.values())
    places = {id(group): place for place, group in enumerate(groups)}
    return {
        "begun": state.begun,
        "groups": [_stored_group(group) for group in groups],
        "queue": [_stored_episode(each, places) for each in state.queue],
        "paused": [_stored_episode(each.episode, places) | {"waiting": each.waiting} for each in state.paused],
    }


def restored_episodes(entry: Mapping[str, Any], panel: TaskPanel) -> CarriedEpisodes:
    """The inverse of ``stored_episodes``.

    Raises:
        ValueError: If the panel lacks a task.
    """
    tasks = {task.task_id: task for task in panel.tasks}
    groups = [_restored_group(each, tasks) for each in entry["groups"]]
    return CarriedEpisodes(
        groups=[group for group in groups if not group.dropped],
        queue=[_restored_episode(each, groups) for each in entry["queue"]],
        paused=[
            PausedEpisode(episode=_restored_episode(each, groups), waiting=each["waiting"]) for each in entry["paused"]
        ],
        begun=entry["begun"],
    )


def _anchors(state: CarriedEpisodes, group: Group) -> Iterable[Hashable]:
    for trajectory in group.finished.values():
        yield from (step.anchor_key for step in trajectory.steps)
    for each in state.paused:
        if each.episode.group is group:
            yield from (step.anchor_key for step in each.episode.steps)
            yield each.episode.event.anchor


def _stored_group(group: Group) -> dict[str, Any]:
    return {
        "task_id": group.task.task_id,
        "index": group.index,
        "noise_key": _plain(group.noise_key),
        "carried": group.carried,
        "dropped": group.dropped,
        "finished": [] if group.dropped else [_stored_trajectory(each) for each in group.finished.values()],
    }


def _restored_group(entry: Mapping[str, Any], tasks: Mapping[str, Task]) -> Group:
    task = tasks.get(entry["task_id"])
    if task is None:
        raise ValueError(
            f"ckpt_path must name a checkpoint of a run with these training tasks; in this one task "
            f"{entry['task_id']!r} is under way, which is not among them"
        )
    finished = [_restored_trajectory(each, task) for each in entry["finished"]]
    return Group(
        task=task,
        index=entry["index"],
        noise_key=entry["noise_key"],
        finished={trajectory.episode_index: trajectory for trajectory in finished},
        carried=entry["carried"],
        dropped=entry["dropped"],
    )


def _stored_trajectory(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "episode_index": trajectory.episode_index,
        "success": trajectory.success,
        "stop_reason": str(trajectory.stop_reason),
        "final_observation": _plain(trajectory.final_observation),
        "metrics": dict(trajectory.metrics),
        "steps": _stored_steps(trajectory.steps),
    }


def _restored_trajectory(entry: Mapping[str, Any], task: Task) -> Trajectory:
    return Trajectory(
        task_id=task.task_id,
        kind=task.kind,
        episode_index=entry["episode_index"],
        steps=tuple(_restored_steps(entry["steps"])),
        success=entry["success"],
        stop_reason=StopReason(entry["stop_reason"]),
        final_observation=entry["final_observation"],
        metrics=entry["metrics"],
    )


def _stored_episode(episode: Episode, places: Mapping[int, int]) -> dict[str, Any]:
    dropped = bool(episode.group.dropped)  # then nothing of it matters but that it is there
    event = EnvironmentEvent(slot=-1) if dropped else episode.event
    return {
        "group": places[id(episode.group)],
        "index": episode.index,
        "attempt": episode.attempt,
        "failures": episode.failures,
        "instruction": _plain(episode.instruction),
        "observation": _plain(event.observation),
        "anchor": _plain(event.anchor),
        "admissible_actions": _plain(event.admissible_actions),
        "steps": _stored_steps([] if dropped else episode.steps),
    }


def _restored_episode(entry: Mapping[str, Any], groups: Sequence[Group]) -> Episode:
    steps = _restored_steps(entry["steps"])
    return Episode(
        group=groups[entry["group"]],
        index=entry["index"],
        attempt=entry["attempt"],
        failures=entry["failures"],
        instruction=entry["instruction"],
        event=EnvironmentEvent(
            slot=-1,
            observation=entry["observation"],
            anchor=_restored(entry["anchor"]),
            admissible_actions=entry["admissible_actions"],
        ),
        history=[(step.observation, step.action) for step in steps],
        steps=steps,
    )


_VALUES = (
    *("observation", "anchor_key", "response", "action", "valid_action", "reward", "policy_version"),
    "prompt_truncated",
)
_ROWS = {"prompt_ids": torch.int64, "completion_ids": torch.int64, "logprobs": torch.float64}


def _stored_steps(steps: Sequence[Step]) -> dict[str, Any]:
    """By column: a checkpoint is read number by number, but a tensor at once."""
    columns: dict[str, Any] = {name: [_plain(getattr(step, name)) for step in steps] for name in _VALUES}
    for name, dtype in _ROWS.items():
        rows = [getattr(step, name) for step in steps]
        columns[name] = torch.tensor([value for row in rows for value in row], dtype=dtype)
        columns[f"{name}_lengths"] = [len(row) for row in rows]
    return columns


def _restored_steps(columns: Mapping[str, Any]) -> list[Step]:
    values: dict[str, Any] = {name: map(_restored, columns[name]) for name in _VALUES}
    for name in _ROWS:
        parts = columns[name].split(columns[f"{name}_lengths"]) if columns[f"{name}_lengths"] else ()
        values[name] = [tuple(part.tolist()) for part in parts]
    return [Step(**dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True)]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float | np.bool_ | np.integer | np.floating)


def _plain(value: object) -> Any:
    """A hashable value that equals the given one, and that a checkpoint is loaded with."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, frozenset):
        return {"frozenset": [_plain(each) for each in value]}
    for kind, convert in ((str, str.__str__), (bool, bool), (int, int), (float, float)):
        if isinstance(value, kind):
            return convert(value)
    assert value is None
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset(map(_restored, value["frozenset"]))
    return tuple(map(_restored, value)) if isinstance(value, tuple) else value
