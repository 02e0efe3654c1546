"""One episode and its group: what was said, what was written, and how a turn is made of it."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gigpo_lightning.engines.base import Completion, GenerationRequest, SamplingParameters
from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import check_count
from gigpo_lightning.pool.copies import EnvironmentEvent
from gigpo_lightning.prompts.base import (
    EncodedPrompt,
    NoRoomError,
    Prompt,
    ReadsTokens,
    Tokenizer,
    Turn,
    TurnView,
)
from gigpo_lightning.prompts.world_text import as_text
from gigpo_lightning.trajectory import Step, StopReason, Trajectory

_logger = logging.getLogger(__name__)


def noise_seed(*parts: object) -> int:
    """Seed of one reply's sampling noise, from what the reply is for, not from when or beside what it is sampled."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """The episodes of one task: those that have ended, and why none of the others matters any more."""

    task: Task
    index: int
    noise_key: object = 0
    """What else its sampling noise depends on, such as the epoch that began it."""
    finished: dict[int, Trajectory] = field(default_factory=dict)
    carried: int = 0
    """How many of them had ended when this rollout began."""
    dropped: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Episode:
    """An episode to be played, or under way; what an environment's failure ends, another attempt begins anew."""

    group: Group
    index: int
    attempt: int = 0
    failures: int = 0
    """Attempts that ended by its own environment's fault."""
    slot: int = -1
    instruction: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    answer: str = ""
    """What the policy is told in place of the environment's answer to its last action; empty to ask the environment."""
    event: EnvironmentEvent = field(default_factory=lambda: EnvironmentEvent(slot=-1))
    view: TurnView | None = None
    request: GenerationRequest | None = None
    encoded: EncodedPrompt = field(default_factory=lambda: EncodedPrompt(ids=()))
    says_success: bool = False
    """Whether the info of one of its steps had ``"success"``."""
    finishing: bool = False
    """Whether the step limit has ended it, and its environment is still to say its last."""
    turns: list[Turn] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """The task that it plays."""
        return self.group.task

    @property
    def order(self) -> tuple[int, int]:
        """Its place among the rollout's episodes."""
        return self.group.index, self.index


class EpisodePlayer:
    """Turns what an environment says into a request, and a reply into an action; knows no engine and no environment.

    ``context`` is the engine's longest prompt plus reply, in tokens; the other arguments are those of ``Collector``.

    Raises:
        ValueError: If ``max_steps`` < 1, or the context has no room for a prompt.
    """

    def __init__(
        self,
        *,
        prompt: Prompt,
        tokenizer: Tokenizer,
        sampling: SamplingParameters,
        max_steps: int,
        context: int,
        seed: int,
    ) -> None:
        check_count("max_steps", max_steps)
        self.max_prompt_tokens = context - sampling.max_tokens
        if self.max_prompt_tokens < 1:
            raise ValueError(
                f"max_tokens must leave room for a prompt in the context of {context} tokens, got {sampling.max_tokens}"
            )
        self.prompt = prompt
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.max_steps = max_steps
        self.context = context
        self.seed = seed
        self._has_warned = False

    def observe(self, episode: Episode, event: EnvironmentEvent) -> Trajectory | None:
        """Take in what an environment said; the trajectory, if that ended it."""
        if episode.steps:
            # dataclasses.replace is several times slower, and this runs once a step.
            fields = {name: getattr(episode.steps[-1], name) for name in Step.__slots__}
            said = {"reward": event.reward, "scores": event.scores}
            if episode.finishing:  # the step's own answer has come already
                said = {"reward": fields["reward"] + event.reward, "scores": {**fields["scores"], **event.scores}}
            episode.steps[-1] = Step(**fields | said)
            episode.says_success |= event.says_success
        else:
            episode.instruction = event.instruction or event.observation
            episode.tools = event.tools
            if event.tools and not isinstance(self.prompt, ReadsTokens):
                self._warn_of_tools()
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
            metrics=event.metrics,
            final_anchor=event.anchor,
        )

    def _warn_of_tools(self) -> None:
        """Say once that the policy may not hear of the environment's tools: it would fail without an error."""
        if not self._has_warned:
            _logger.warning(
                "the environment gives info['tools'], which %s may not show; gigpo_lightning.prompts.chat.ChatPrompt "
                "does, with a reply of gigpo_lightning.prompts.tool_calls",
                type(self.prompt).__name__,
            )
        self._has_warned = True

    def _stop_reason(self, episode: Episode, event: EnvironmentEvent) -> StopReason | None:
        if episode.finishing:
            return StopReason.MAX_STEPS
        if event.terminated:
            return StopReason.TERMINATED
        if event.truncated:
            return StopReason.TRUNCATED
        return StopReason.MAX_STEPS if len(episode.steps) >= self.max_steps else None

    def request(self, episode: Episode) -> GenerationRequest:
        """Write the prompt of an episode's next turn."""
        episode.view = TurnView(
            instruction=episode.instruction,
            observation=episode.event.observation,
            admissible_actions=episode.event.admissible_actions,
            turns=tuple(episode.turns),
            tools=episode.tools,
        )
        try:
            view = as_text(episode.view, self.tokenizer, self.prompt)  # a user's prompt may not think of it
            encoded = self.prompt.encode(view, self.tokenizer, self.max_prompt_tokens)
        except NoRoomError as error:
            raise NoRoomError(
                f"no room for the prompt of task {episode.task.task_id!r}: the context of {self.context} "
                f"tokens (max_model_len) less sampling.max_tokens {self.sampling.max_tokens} leaves "
                f"{self.max_prompt_tokens}; the prompt's {error}"
            ) from error
        except ValueError as error:
            raise ValueError(self._of_prompt("write a turn", episode, error)) from error
        episode.encoded = encoded
        step = len(episode.steps)
        return GenerationRequest(
            request_id=f"{episode.group.index}/{episode.index}/{episode.attempt}/{step}",
            prompt_ids=encoded.ids,
            extras=encoded.extras,
            sampling=self.sampling,
            stop_token_ids=self.tokenizer.stop_token_ids,
            seed=noise_seed(self.seed, episode.group.noise_key, episode.task.task_id, episode.index, step),
        )

    def act(self, episode: Episode, completion: Completion) -> str:
        """Read the action from a reply."""
        assert episode.view is not None
        assert episode.request is not None
        response = self.tokenizer.decode(completion.token_ids)
        try:
            if isinstance(self.prompt, ReadsTokens):
                shown = episode.request.prompt_ids
                parsed = self.prompt.parse_tokens(completion.token_ids, shown, episode.view, self.tokenizer)
            else:
                parsed = self.prompt.parse(response, episode.view)
        except ValueError as error:
            raise ValueError(self._of_prompt("read a reply", episode, error)) from error
        episode.turns.append(
            Turn(
                observation=episode.event.observation,
                action=parsed.action,
                response=response,
                prompt_ids=episode.request.prompt_ids,
                completion_ids=completion.token_ids,
                admissible_actions=episode.event.admissible_actions,
                first_turn=episode.encoded.first_turn,
            )
        )
        episode.answer = parsed.answer
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
                prompt_truncated=episode.encoded.truncated,
                problem=parsed.problem,
                reply_cut=completion.finish_reason == "length",
            )
        )
        return parsed.action

    def answer_itself(self, episode: Episode) -> EnvironmentEvent:
        """What a prompt says in place of the environment: its own words, in a state that has not changed."""
        return replace(episode.event, observation=episode.answer, reward=0.0, scores={}, seconds=0.0)

    def _of_prompt(self, what: str, episode: Episode, error: ValueError) -> str:
        kind = type(self.prompt)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return f"the prompt {name} could not {what} of task {episode.task.task_id!r}: {error}"
