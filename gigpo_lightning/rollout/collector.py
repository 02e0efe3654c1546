"""The scheduler of episodes: each asks for its next turn as soon as its last one is answered."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import RunError
from gigpo_lightning.prompts.base import Prompt, Tokenizer, TurnView
from gigpo_lightning.rollout.engine import Completion, GenerationRequest, RolloutEngine, SamplingParameters
from gigpo_lightning.rollout.environment_pool import EnvironmentEvent, EnvironmentPool
from gigpo_lightning.rollout.progress import ProgressDisplay, RolloutProgress
from gigpo_lightning.trajectory import Step, StopReason, Trajectory, TrajectoryGroup


def noise_seed(*parts: object) -> int:
    """Seed of one reply's sampling noise, from what the reply is for, not from when or beside what it is sampled."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


@dataclass(slots=True, kw_only=True)
class _Episode:
    """An episode under way."""

    task: Task
    group: int
    index: int
    slot: int = -1
    instruction: str = ""
    event: EnvironmentEvent = field(default_factory=lambda: EnvironmentEvent(slot=-1))
    view: TurnView | None = None
    request: GenerationRequest | None = None
    prompt_truncated: bool = False
    history: list[tuple[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


class Collector:
    """Plays groups of episodes on an engine and a pool of environments.

    There is no barrier: generation and environment stepping overlap, and finished episodes cost nothing. New requests
    enter the engine in batches of ``admission_share`` of the running episodes, because an engine that is fed one by
    one spends its time on small batches.

    Args:
        engine: Writes the replies.
        pool: Holds the environments.
        prompt: Template and parser.
        tokenizer: Of the policy.
        sampling: How replies are drawn.
        max_steps: Longest episode, in environment steps.
        seed: Of the sampling noise, with all that names a reply.
        admission_share: Share of the running episodes that must wait before they enter a busy engine together.
        display: Shows the progress.

    Raises:
        ValueError: If ``max_steps`` < 1, or the engine's context has no room for a prompt.
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
        admission_share: float = 0.4,
        display: ProgressDisplay | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be >= 1, got {max_steps}")
        self.max_prompt_tokens = engine.max_model_len - sampling.max_tokens
        if self.max_prompt_tokens < 1:
            raise ValueError(
                f"max_tokens must leave room for a prompt in the context of {engine.max_model_len} tokens, "
                f"got {sampling.max_tokens}"
            )
        self.engine = engine
        self.pool = pool
        self.prompt = prompt
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.max_steps = max_steps
        self.seed = seed
        self.admission_share = admission_share
        self.display = display or ProgressDisplay()

    def play(
        self, tasks: Sequence[Task], group_size: int, *, noise_key: object, name: str
    ) -> tuple[list[TrajectoryGroup], RolloutProgress]:
        """Play ``group_size`` episodes of every task.

        Args:
            tasks: One group each.
            group_size: Episodes of a group.
            noise_key: What else the sampling noise depends on, such as the epoch.
            name: Shown with the progress.

        Returns:
            The groups in the order of ``tasks``, and the rollout's counts.

        Raises:
            RunError: If an environment raises; the message names the task.
            ValueError: If a task's shortest prompt has no room in the context.
        """
        progress = RolloutProgress(name=name, total=len(tasks) * group_size)
        finished: list[dict[int, Trajectory]] = [{} for _ in tasks]
        with self.display.showing(progress):
            for episode, trajectory in self._episodes(tasks, group_size, noise_key, progress):
                finished[episode.group][episode.index] = trajectory
        groups = [
            TrajectoryGroup(task_id=task.task_id, trajectories=tuple(done[i] for i in range(group_size)))
            for task, done in zip(tasks, finished, strict=True)
        ]
        return groups, progress

    def _episodes(
        self, tasks: Sequence[Task], group_size: int, noise_key: object, progress: RolloutProgress
    ) -> Iterator[tuple[_Episode, Trajectory]]:
        """Yield every episode as it ends."""
        queue = [_Episode(task=task, group=g, index=i) for g, task in enumerate(tasks) for i in range(group_size)]
        queue.reverse()
        running: dict[int, _Episode] = {}  # by slot
        waiting: list[_Episode] = []
        generating: dict[str, _Episode] = {}
        while queue or running:
            while queue and (slot := self.pool.take_slot(queue[-1].task)) is not None:
                episode = queue.pop()
                episode.slot = slot
                running[slot] = episode
                self.pool.reset(slot, episode.task)
            stepping = len(running) - len(waiting) - len(generating)
            clock = time.perf_counter()
            for event in self.pool.poll(block=stepping > 0 and not generating and not self._enough(waiting, running)):
                episode = running[event.slot]
                if (trajectory := self._observe(episode, event)) is None:
                    episode.request = self._request(episode, noise_key)
                    waiting.append(episode)
                else:
                    self.pool.free_slot(episode.slot)
                    del running[episode.slot]
                    progress.finished += 1
                    progress.successes += trajectory.success
                    yield episode, trajectory
            progress.environment_seconds += time.perf_counter() - clock
            stepping = len(running) - len(waiting) - len(generating)
            if waiting and (self._enough(waiting, running) or (not generating and not stepping)):
                for episode in waiting:
                    assert episode.request is not None
                    generating[episode.request.request_id] = episode
                    self.engine.submit(episode.request)
                waiting = []
            clock = time.perf_counter()
            for completion in self.engine.poll() if generating else ():
                self._act(generating.pop(completion.request_id), completion)
                progress.steps += 1
                progress.tokens += len(completion.token_ids)
            progress.engine_seconds += time.perf_counter() - clock
            self.display.update(progress)

    def _enough(self, waiting: Sequence[_Episode], running: dict[int, _Episode]) -> bool:
        return len(waiting) >= max(1.0, self.admission_share * len(running))

    def _observe(self, episode: _Episode, event: EnvironmentEvent) -> Trajectory | None:
        """Take in what an environment said; the trajectory, if that ended it."""
        if event.failure:
            raise RunError(f"the environment failed on task {episode.task.task_id!r}:\n{event.failure}")
        if episode.steps:
            episode.steps[-1] = _rewarded(episode.steps[-1], event.reward)
        else:
            episode.instruction = event.instruction or event.observation
        episode.event = event
        reason = self._stop_reason(episode, event)
        if reason is None:
            return None
        return Trajectory(
            task_id=episode.task.task_id,
            kind=episode.task.kind,
            episode_index=episode.index,
            steps=tuple(episode.steps),
            success=event.success,
            stop_reason=reason,
            final_observation=event.observation,
        )

    def _stop_reason(self, episode: _Episode, event: EnvironmentEvent) -> StopReason | None:
        if event.terminated:
            return StopReason.TERMINATED
        if event.truncated:
            return StopReason.TRUNCATED
        return StopReason.MAX_STEPS if len(episode.steps) >= self.max_steps else None

    def _request(self, episode: _Episode, noise_key: object) -> GenerationRequest:
        """Write the prompt of an episode's next turn."""
        episode.view = TurnView(
            instruction=episode.instruction,
            observation=episode.event.observation,
            admissible_actions=episode.event.admissible_actions,
            history=tuple(episode.history),
        )
        try:
            encoded = self.prompt.encode(episode.view, self.tokenizer, self.max_prompt_tokens)
        except ValueError as error:
            raise ValueError(
                f"no room for the prompt of task {episode.task.task_id!r}: the context of {self.engine.max_model_len} "
                f"tokens (max_model_len) less sampling.max_tokens {self.sampling.max_tokens} leaves "
                f"{self.max_prompt_tokens}; the prompt's {error}"
            ) from error
        episode.prompt_truncated = encoded.truncated
        step = len(episode.steps)
        return GenerationRequest(
            request_id=f"{episode.group}/{episode.index}/{step}",
            prompt_ids=encoded.ids,
            sampling=self.sampling,
            stop_token_ids=self.tokenizer.stop_token_ids,
            seed=noise_seed(self.seed, noise_key, episode.task.task_id, episode.index, step),
        )

    def _act(self, episode: _Episode, completion: Completion) -> None:
        """Read the action from a reply and send it to the environment."""
        assert episode.view is not None
        assert episode.request is not None
        response = self.tokenizer.decode(completion.token_ids)
        parsed = self.prompt.parse(response, episode.view)
        episode.history.append((episode.event.observation, parsed.action))
        episode.steps.append(
            Step(
                observation=episode.event.observation,
                anchor_key=episode.event.anchor,
                prompt_ids=episode.request.prompt_ids,
                completion_ids=completion.token_ids,
                logprobs=completion.logprobs,
                response=response,
                action=parsed.action,
                valid_action=parsed.valid,
                reward=0.0,  # known when the environment answers
                policy_version=completion.policy_version,
                prompt_truncated=episode.prompt_truncated,
            )
        )
        self.pool.step(episode.slot, parsed.action)


def _rewarded(step: Step, reward: float) -> Step:
    # dataclasses.replace is several times slower, and this runs once a step.
    return Step(**{name: getattr(step, name) for name in Step.__slots__} | {"reward": reward})
