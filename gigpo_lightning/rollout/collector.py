"""The scheduler of episodes: each asks for its next turn as soon as its last one is answered."""

import time
from collections.abc import Callable, Sequence

from gigpo_lightning.engines.base import (
    Cancellable,
    Completion,
    HasOwnModel,
    Interruptible,
    Replicated,
    RolloutEngine,
    SamplingParameters,
)
from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import NothingPlayedError, Preempted, RunError, check_count
from gigpo_lightning.interruption import never
from gigpo_lightning.pool.base import EnvironmentPool
from gigpo_lightning.pool.copies import EnvironmentEvent
from gigpo_lightning.prompts.base import Prompt, Tokenizer
from gigpo_lightning.rollout.carry_over import CarriedEpisodes
from gigpo_lightning.rollout.episode import Episode, EpisodePlayer, Group
from gigpo_lightning.rollout.failures import FailureLog, in_short
from gigpo_lightning.rollout.progress import ProgressDisplay, RolloutProgress
from gigpo_lightning.trajectory import StopReason, Trajectory, TrajectoryGroup


class Collector:
    """Plays groups of episodes on an engine and a pool of environments.

    There is no barrier: generation and environment stepping overlap, and finished episodes cost nothing. New requests
    enter the engine in batches of ``admission_share`` of the running episodes, because an engine that is fed one by
    one spends its time on small batches.

    An episode whose environment fails (raises, hangs, or dies with its process) is begun again, with the same noise.
    After ``max_retries`` of that its group is dropped and counted, so that credit never sees half a group.

    Args:
        engine: Writes the replies.
        pool: Holds the environments.
        prompt: Template and parser.
        tokenizer: Of the policy.
        sampling: How replies are drawn.
        max_steps: Longest episode, in environment steps.
        seed: Of the sampling noise, with all that names a reply.
        admission_share: Share of the running episodes that must wait before they enter a busy engine together; default:
            0.4, but 0 for servers, which gather their own batches.
        max_retries: Times that an episode may be begun again before its group is dropped.
        deterministic: Wait for every environment before the engine goes on, and do everything in the episodes' order:
            two rollouts with the same seed are then equal to the last bit, however quick the workers are. Nothing
            overlaps.
        display: Shows the progress.
        failures: Tells of environments that fail; it remembers what it has told from one rollout to the next.
        interrupted: Asked at every turn whether to drop the rollout.

    Raises:
        ValueError: If ``max_steps`` < 1, ``max_retries`` < 0, or the engine's context has no room for a prompt.
    """

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        pool: EnvironmentPool,
        prompt: Prompt,
        tokenizer: Tokenizer,
        sampling: SamplingParameters,
        max_steps: int,
        seed: int,
        admission_share: float | None = None,
        max_retries: int = 2,
        deterministic: bool = False,
        display: ProgressDisplay | None = None,
        failures: FailureLog | None = None,
        interrupted: Callable[[], bool] = never,
    ) -> None:
        check_count("max_retries", max_retries, 0)
        self.engine = engine
        self.pool = pool
        self.player = EpisodePlayer(
            prompt=prompt,
            tokenizer=tokenizer,
            sampling=sampling,
            max_steps=max_steps,
            context=engine.max_model_len,
            seed=seed,
        )
        default_share = 0.0 if isinstance(engine, Replicated | HasOwnModel) else 0.4
        self.admission_share = default_share if admission_share is None else admission_share
        self.max_retries = max_retries
        self.deterministic = deterministic
        self.display = display or ProgressDisplay()
        self.failures = failures or FailureLog()
        self.interrupted = interrupted

    def play(
        self,
        tasks: Sequence[Task],
        group_size: int,
        *,
        noise_key: object,
        name: str,
        carried: CarriedEpisodes | None = None,
        wanted: int | None = None,
    ) -> tuple[list[TrajectoryGroup], RolloutProgress]:
        """Play ``group_size`` episodes of every task.

        Args:
            tasks: One group each.
            group_size: Episodes of a group.
            noise_key: What else the sampling noise depends on, such as the epoch.
            name: Shown with the progress.
            carried: What the last rollout has left unfinished, to go on with; afterwards, what this one has left.
            wanted: Groups after which to stop; default: all.

        Returns:
            The complete groups, the oldest first and no more than ``wanted``, and the rollout's counts.

        Raises:
            NothingPlayedError: If every group was dropped; the message names a task and what failed.
            Preempted: If it was interrupted.
            RunError: If the engine or the workers cannot go on.
            ValueError: If a task's shortest prompt has no room in the context.
        """
        state = CarriedEpisodes() if carried is None else carried
        state.begin(tasks, group_size, noise_key)
        unfinished = sum(group_size - group.carried for group in state.groups)
        progress = RolloutProgress(name=name, total=unfinished)
        try:
            with self.display.showing(progress):
                _Rollout(self, state, group_size, len(state.groups) if wanted is None else wanted, progress).play()
        except BaseException:
            if isinstance(self.engine, Cancellable):
                self.engine.cancel()
            raise
        dropped = [group for group in state.groups if group.dropped]
        complete = state.take(group_size, wanted)
        progress.carried = sum(group_size - len(group.finished) for group in state.groups)
        if dropped and not complete:
            raise NothingPlayedError(
                f"the environment failed on every task; on task {dropped[-1].task.task_id!r}: "
                f"{in_short(dropped[-1].dropped)}"
            )
        self.failures.end_rollout(name)
        return [
            TrajectoryGroup(
                task_id=group.task.task_id, trajectories=tuple(group.finished[index] for index in range(group_size))
            )
            for group in complete
        ], progress


class _Rollout:
    """One rollout under way.

    An episode under way is in exactly one place: stepping (its slot has a command), waiting (its next request is
    written) or generating (the engine has it). Requests of episodes that were begun again, or whose group was dropped,
    stay with the engine, and their replies are thrown away.
    """

    def __init__(
        self, collector: Collector, state: CarriedEpisodes, group_size: int, wanted: int, progress: RolloutProgress
    ) -> None:
        self.collector = collector
        self.pool = collector.pool
        self.state = state
        self.queue = state.queue
        self.running = state.running
        self.stepping = state.stepping
        self.waiting = state.waiting
        self.group_size = group_size
        self.wanted = wanted
        self.progress = progress
        self.generating: dict[str, Episode] = {}  # by request
        self.abandoned: set[str] = set()  # requests that the engine has and nobody wants

    def play(self) -> None:
        """Play until enough groups are complete and the engine has nothing left.

        What environments are doing then is heard in the next rollout: they step while the policy is updated.
        """
        while not self.state.enough(self.group_size, self.wanted):
            self._submit()
            self._hear_engine()
            if self.collector.interrupted():
                raise Preempted(f"{self.progress.name} was interrupted")
            self._begin_episodes()
            if self.queue and not (self.stepping or self.waiting or self.generating or self.abandoned):
                raise RunError(f"no environment slot is free for {len(self.queue)} episodes, and none will be")
            self._hear_environments()
            self.collector.display.update(self.progress)
        while self.generating or self.abandoned:
            self._hear_engine()

    def _enough(self) -> bool:
        """Whether what waits is worth a batch."""
        return len(self.waiting) >= max(1.0, self.collector.admission_share * len(self.running))

    def _begin_episodes(self) -> None:
        while self.queue and (slot := self.pool.take_slot(self.queue[-1].task)) is not None:
            episode = self.queue.pop()
            episode.slot = slot
            self.running[slot] = episode
            self.stepping.add(slot)
            self.pool.reset(slot, episode.task)

    def _hear_environments(self) -> None:
        """Take in what the environments have said; a deterministic rollout waits for all of them."""
        clock = time.perf_counter()
        patient = self.collector.deterministic
        engine_busy = bool(self.generating or self.abandoned)
        events = self.pool.poll(block=bool(self.stepping) and (patient or not (engine_busy or self._enough())))
        if patient:
            answered = {event.slot for event in events}
            while not answered.issuperset(self.stepping):
                events += (more := self.pool.poll(block=True))
                answered.update(event.slot for event in more)
            events.sort(key=lambda event: self.running[event.slot].order if event.slot in self.running else (-1, -1))
        for event in events:
            self._hear(event)
        self.progress.environment_seconds += time.perf_counter() - clock

    def _hear(self, event: EnvironmentEvent) -> None:
        episode = self.running.get(event.slot)
        if episode is None:
            return  # its worker died after its last answer
        self.progress.note_environment(episode.task.task_id, event.seconds)
        if event.failure:
            self._fail(episode, event)
        elif episode.group.dropped:
            self._end(episode)
        elif (trajectory := self.collector.player.observe(episode, event)) is None:
            self.stepping.remove(event.slot)
            episode.request = self.collector.player.request(episode)
            self.waiting[event.slot] = episode
        elif self._asks_for_the_end(episode, trajectory):
            episode.finishing = True
        else:
            self._end(episode)
            episode.group.finished[episode.index] = trajectory
            self.progress.finished += 1
            self.progress.successes += trajectory.success
            self.progress.judged += episode.says_success

    def _asks_for_the_end(self, episode: Episode, trajectory: Trajectory) -> bool:
        """Whether the environment is told that the step limit has ended its episode, and is still to answer that."""
        cut = trajectory.stop_reason == StopReason.MAX_STEPS and not episode.finishing
        return cut and self.pool.finish(episode.slot)

    def _end(self, episode: Episode) -> None:
        """Take an episode out of wherever it is, and give its slot back."""
        self.stepping.discard(episode.slot)
        self.waiting.pop(episode.slot, None)
        if episode.request is not None and episode.request.request_id in self.generating:
            del self.generating[episode.request.request_id]
            self.abandoned.add(episode.request.request_id)
        del self.running[episode.slot]
        self.pool.free_slot(episode.slot)

    def _fail(self, episode: Episode, event: EnvironmentEvent) -> None:
        """Begin an episode again, or drop its group; what another episode did to its worker is not held against it."""
        self._end(episode)
        if episode.group.dropped:
            return
        failures = episode.failures + (not event.bystander)
        if failures > self.collector.max_retries and event.fatal:
            raise RunError(f"task {episode.task.task_id!r} failed {failures} times: {event.fatal}")
        if failures > self.collector.max_retries:
            self._drop(episode.group, event.failure)
            return
        self.collector.failures.note(episode.task.task_id, event.failure, dropped=False)
        self.progress.retried += 1
        again = Episode(group=episode.group, index=episode.index, attempt=episode.attempt + 1, failures=failures)
        self.queue.append(again)

    def _drop(self, group: Group, failure: str) -> None:
        """Give a group up: its other episodes end where they are, or when their environment has answered."""
        self.collector.failures.note(group.task.task_id, failure, dropped=True)
        group.dropped = failure
        self.queue[:] = [episode for episode in self.queue if episode.group is not group]
        for episode in [each for each in self.running.values() if each.group is group]:
            if episode.slot not in self.stepping:
                self._end(episode)
        ended_here = list(group.finished.values())[group.carried :]
        self.progress.finished -= len(ended_here)
        self.progress.successes -= sum(trajectory.success for trajectory in ended_here)
        self.progress.dropped += self.group_size - group.carried

    def _submit(self) -> None:
        """Give the engine what waits, once that is enough to be worth its while."""
        idle = not (self.generating or self.abandoned or self.stepping)
        if not self.waiting or not (idle or self._enough()):
            return
        for episode in self.waiting.values():
            assert episode.request is not None
            self.generating[episode.request.request_id] = episode
            self.collector.engine.submit(episode.request)
        self.waiting.clear()

    def _hear_engine(self) -> None:
        clock = time.perf_counter()
        for completion in self._poll_engine() if self.generating or self.abandoned else ():
            self.progress.tokens += len(completion.token_ids)
            if completion.request_id in self.abandoned:
                self.abandoned.remove(completion.request_id)
                continue
            episode = self.generating.pop(completion.request_id)
            self.stepping.add(episode.slot)
            action = self.collector.player.act(episode, completion)
            self.progress.steps += 1
            if episode.answer:
                self._hear(self.collector.player.answer_itself(episode))
            else:
                self.pool.step(episode.slot, action)
        self.progress.engine_seconds += time.perf_counter() - clock

    def _poll_engine(self) -> list[Completion]:
        """The engine's next replies; fewer, or none, if enough has come together meanwhile to be submitted."""
        engine = self.collector.engine
        if not isinstance(engine, Interruptible):
            return engine.poll()
        return engine.poll_unless(self.collector.interrupted if self.collector.deterministic else self._listen)

    def _listen(self) -> bool:
        """Hear environments between two steps of the engine; whether what waits is worth interrupting it."""
        if self.collector.interrupted():
            return True
        if not self.stepping:
            return False
        clock = time.perf_counter()
        for event in self.pool.poll(block=False):
            self._hear(event)
        seconds = time.perf_counter() - clock
        self.progress.environment_seconds += seconds
        self.progress.engine_seconds -= seconds
        return bool(self.waiting) and self._enough()
