"""Bringing environments to where those of a checkpoint's episodes were."""

import logging
import time

from gigpo_lightning.environments.base import Task
from gigpo_lightning.pool.base import EnvironmentPool
from gigpo_lightning.pool.slots import EnvironmentEvent
from gigpo_lightning.rollout.carry_over import CarriedEpisodes, PausedEpisode
from gigpo_lightning.rollout.episode import Episode, EpisodePlayer
from gigpo_lightning.rollout.progress import RolloutProgress

_logger = logging.getLogger(__name__)


class Resumption:
    """Gives every paused episode an environment, and replays the commands whose answers had been heard.

    An environment cannot be written down, but the same task and commands give the same episode. One that answers
    otherwise than it did is not deterministic, and what the policy wrote to it is worth nothing.

    Args:
        state: Its paused episodes get slots; nothing else is under way.
        pool: Holds the environments.
        progress: Learns how long they take.
    """

    def __init__(self, state: CarriedEpisodes, pool: EnvironmentPool, progress: RolloutProgress) -> None:
        self.state = state
        self.pool = pool
        self.progress = progress
        self._paused, state.paused = state.paused, []
        self._answers: dict[int, int] = {}  # heard so far, by slot
        self._lost: dict[int, tuple[Episode, EnvironmentEvent | str]] = {}

    def replay(self) -> list[tuple[Episode, EnvironmentEvent | str]]:
        """Replay all that had been answered.

        Returns:
            Episodes that are lost, in their order, and why: what their environment said when it failed, or in words.
        """
        started = time.perf_counter()
        without_slot: list[tuple[Episode, EnvironmentEvent | str]] = []
        for each in self._paused:
            slot = self.pool.take_slot(each.episode.task)
            if slot is None:
                without_slot.append((each.episode, "there are fewer environment slots than there were"))
                continue
            each.episode.slot = slot
            self.state.running[slot] = each.episode
            self._answers[slot] = 0
        replayed = {each.episode.slot: each for each in self._paused if each.episode.slot >= 0}
        for each in replayed.values():
            self._go_on(each)
        while self.state.stepping:
            for event in self.pool.poll(block=True):
                if event.slot in replayed:
                    self._hear(replayed[event.slot], event)
        # In order, and not as they were lost: nothing may depend on how quick the workers are.
        lost = sorted([*self._lost.values(), *without_slot], key=lambda each: each[0].order)
        level = logging.WARNING if lost else logging.INFO
        seconds = time.perf_counter() - started
        message = "%d carried episodes were replayed in %.1f s; of %d, %d begin again from their start%s"
        why = f", as of task {lost[0][0].task.task_id!r}: {_reason(lost[0][1])}" if lost else ""
        _logger.log(level, message, len(replayed), seconds, len(self._paused), len(lost), why)
        return lost

    def settle(self, player: EpisodePlayer) -> None:
        """Write the requests that were written, and give the commands that were not answered."""
        there = [each for each in self._paused if self.state.running.get(each.episode.slot) is each.episode]
        for each in there:
            if each.waiting is None:
                self._send(each.episode, _commands(each)[-1])
        for each in sorted((each for each in there if each.waiting is not None), key=lambda each: each.waiting or 0):
            each.episode.request = player.request(each.episode)
            self.state.waiting[each.episode.slot] = each.episode

    def _go_on(self, paused: PausedEpisode) -> None:
        """Give the next command, if its answer had been heard."""
        slot, commands = paused.episode.slot, _commands(paused)
        if self._answers[slot] < len(commands) - (paused.waiting is None):
            self._send(paused.episode, commands[self._answers[slot]])

    def _send(self, episode: Episode, command: Task | str) -> None:
        self.state.stepping.add(episode.slot)
        if isinstance(command, Task):
            self.pool.reset(episode.slot, command)
        else:
            self.pool.step(episode.slot, command)

    def _hear(self, paused: PausedEpisode, event: EnvironmentEvent) -> None:
        episode = paused.episode
        self.progress.note_environment(episode.task.task_id, event.seconds)
        self.state.stepping.discard(event.slot)
        if event.slot in self._lost:
            return
        if event.failure:
            self._lost[event.slot] = episode, event
        elif difference := _difference(paused, self._answers[event.slot], event):
            self._lost[event.slot] = episode, f"its environment is not deterministic: {difference}"
        else:
            self._answers[event.slot] += 1
            self._go_on(paused)


def _commands(paused: PausedEpisode) -> list[Task | str]:
    """All that an environment was told; of a dropped group's episode nothing matters but that it is under way."""
    episode = paused.episode
    return [episode.task] if episode.group.dropped else [episode.task, *(step.action for step in episode.steps)]


def _difference(paused: PausedEpisode, index: int, event: EnvironmentEvent) -> str:
    """In what an answer is not the one that was recorded; empty if it is."""
    episode, said = paused.episode, {name: getattr(event, name) for name in ("terminated", "truncated")}
    recorded: dict[str, object] = {"terminated": False, "truncated": False}
    if index:
        said["reward"], recorded["reward"] = event.reward, episode.steps[index - 1].reward
    else:
        said["instruction"], recorded["instruction"] = event.instruction or event.observation, episode.instruction
    said |= {"observation": event.observation, "anchor": event.anchor}
    if index < len(episode.steps):
        recorded |= {"observation": episode.steps[index].observation, "anchor": episode.steps[index].anchor_key}
    else:
        said["admissible_actions"] = event.admissible_actions
        recorded |= {name: getattr(episode.event, name) for name in ("observation", "anchor", "admissible_actions")}
    for name, value in recorded.items():
        if said[name] != value:
            return f"after {index} steps its {name} was {value!r} and is {said[name]!r} now"
    return ""


def _reason(lost: EnvironmentEvent | str) -> str:
    return lost if isinstance(lost, str) else lost.failure.strip().splitlines()[-1]
