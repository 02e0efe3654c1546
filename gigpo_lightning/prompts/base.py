"""What a prompt is: a template and the parser of its replies, side by side in one class."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from gigpo_lightning.errors import check_count
from gigpo_lightning.text import well_formed


class NoRoomError(ValueError):
    """The shortest prompt that a template can write is too long."""


@runtime_checkable
class Tokenizer(Protocol):
    """The little that the core needs of a tokenizer; ``modules`` makes the real one."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Token ids that end a reply."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added; what ``as_text`` has marked is plain text."""

    def as_text(self, text: str, markers: Collection[str] = ()) -> str:
        """The text, marked so that what looks like a special token or a marker in it is encoded as plain text.

        A text without any is not changed, nor is a marked one.
        """

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], /, **chat_template_kwargs: Any) -> list[int]:
        """Token ids of a chat through the model's own template, ready for the assistant's reply."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""


@runtime_checkable
class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer of which a conversation asks more."""

    def check_replies(self) -> None:
        """Refuse to read replies where it has no rules of its own for them, or wrong ones; ValueError says so."""

    def write_chat(self, messages: Sequence[Mapping[str, Any]], /, **chat_template_kwargs: Any) -> str:
        """Text of a chat through the model's own template, ready for the assistant's reply; ``encode`` reads it."""

    def exact_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and all."""

    def written_text(self, ids: Sequence[int]) -> str:
        """Text of sampled tokens as ``encode`` reads it: a special token that they only spell is marked as text."""

    def read_reply(
        self, ids: Sequence[int], prompt_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        """A reply as a message, by the tokenizer's own rules for replies; None where it has none, or they fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One earlier turn of an episode, in words and in tokens.

    Attributes:
        observation: What the world said.
        action: What was sent to the environment.
        response: What the policy wrote, in words.
        prompt_ids: What it was shown, in tokens.
        completion_ids: What it wrote, in tokens, its stop token included.
        admissible_actions: Commands that did something then; None where the environment does not say.
        first_turn: Number of the oldest turn that its prompt showed, from 0.
    """

    observation: str
    action: str
    response: str = ""
    prompt_ids: tuple[int, ...] = ()
    completion_ids: tuple[int, ...] = ()
    admissible_actions: tuple[str, ...] | None = None
    first_turn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """All that a template may show at one turn.

    Attributes:
        instruction: What is asked for, in words.
        observation: What the world says now.
        admissible_actions: Commands that do something now; None where the environment does not say.
        history: All earlier turns of the episode as (observation, action), oldest first.
        turns: The same turns with what was really shown and written; a prompt is free to repeat, drop or rewrite them.
        tools: JSON schemas of the functions that the policy may call, as chat templates take them.
    """

    instruction: str
    observation: str
    admissible_actions: tuple[str, ...] | None
    history: tuple[tuple[str, str], ...] = ()
    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.turns and not self.history:
            object.__setattr__(self, "history", tuple((turn.observation, turn.action) for turn in self.turns))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt in token ids.

    Attributes:
        ids: Token ids for the engine.
        truncated: Whether something had to be left out to fit.
        first_turn: Number of the oldest turn that it shows, from 0, where that matters to the next prompt.
        extras: What an engine is to be given beside token ids, by name, such as images; an engine of a model
            refuses names that it does not know. Stored steps and the update have token ids alone.
    """

    ids: tuple[int, ...]
    truncated: bool = False
    first_turn: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAction:
    """What a reply says.

    Attributes:
        action: The command to send to the environment; sent even when not valid.
        valid: Whether the reply kept the rules; if not, it costs the invalid-action penalty.
        problem: Which rule was broken, in a few words; empty when valid.
        answer: What the policy is told in place of the environment's answer, which is not asked: the step changes
            nothing and is worth nothing. Empty to send the action.
    """

    action: str
    valid: bool
    problem: str = ""
    answer: str = ""


@runtime_checkable
class Prompt(Protocol):
    """A template and its parser."""

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens, shortening history first, then the observation.

        Raises:
            NoRoomError: If what may not be shortened is longer than ``max_tokens``.
            ValueError: If the turn cannot be written for another reason, such as a tokenizer without a chat template.
        """

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read the action from any reply; never raises."""


@runtime_checkable
class ReadsTokens(Protocol):
    """A prompt that reads replies from their tokens, as a tool call may begin with a special one."""

    def parse_tokens(
        self, completion_ids: Sequence[int], prompt_ids: Sequence[int], view: TurnView, tokenizer: Tokenizer
    ) -> ParsedAction:
        """Read the action from any reply; never raises."""


@runtime_checkable
class Marked(Protocol):
    """A prompt made of markers, each of which the policy's tokenizer must know as one token."""

    markers: tuple[str, ...]


def check_markers(prompt: Prompt, is_unknown: Callable[[str], bool]) -> None:
    """Refuse a tokenizer that has no token for a marker of the prompt; one that is not ``Marked`` needs none.

    Raises:
        ValueError: If a marker is unknown; the message names all such markers.
    """
    unknown = [marker for marker in (prompt.markers if isinstance(prompt, Marked) else ()) if is_unknown(marker)]
    if unknown:
        raise ValueError(
            f"the policy's tokenizer must know every marker of {type(prompt).__name__}, but does not know "
            f"{', '.join(unknown)}; use the checkpoint that was made for this prompt, or another prompt"
        )


@runtime_checkable
class WritesChats(Protocol):
    """A prompt that says whether it is written through the model's chat template.

    It may have ``chat_template_kwargs`` too, a dictionary: what the template takes beside the messages.
    """

    writes_chats: bool


@runtime_checkable
class ChecksTokenizer(Protocol):
    """A prompt that wants more of a tokenizer than a chat template that takes a user's message."""

    def check(self, tokenizer: Tokenizer) -> None:
        """Refuse one that cannot do it; ValueError says what it lacks."""


def check_chat_template(prompt: Prompt, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose chat template cannot write what the prompt needs; others than ``WritesChats`` need none.

    Raises:
        ValueError: If there is no template, it refuses a user's message, it does not read one of
            ``chat_template_kwargs``, or the prompt itself refuses the tokenizer.
    """
    if isinstance(prompt, WritesChats) and prompt.writes_chats:
        kwargs = getattr(prompt, "chat_template_kwargs", {})
        tokenizer.encode_chat([{"role": "user", "content": "hello"}], **kwargs)
        if isinstance(prompt, ChecksTokenizer):
            prompt.check(tokenizer)


@runtime_checkable
class ReplyWriter(Protocol):
    """A prompt whose replies are not the commands themselves; it can write the reply for a command."""

    def write_reply(self, action: str, view: TurnView) -> str:
        """The reply that ``parse`` reads as this action."""


@dataclass(eq=False)
class ShowsHistory:
    """A prompt that shows earlier turns.

    Raises:
        ValueError: If ``history_length`` is negative.
    """

    history_length: int = 0
    """Earlier actions shown."""

    def __post_init__(self) -> None:
        check_count("history_length", self.history_length, 0)


class WholeReply:
    """A prompt whose replies are the action and nothing else."""

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Take the whole reply, stripped, as the action; it is valid if it is one of the admissible ones.

        Where the environment names no admissible actions, every reply is valid but an empty one.
        """
        action, known = well_formed(response).strip(), view.admissible_actions
        if action and (known is None or action in known):
            return ParsedAction(action=action, valid=True)
        return ParsedAction(action=action, valid=False, problem="not admissible" if action else "empty")
