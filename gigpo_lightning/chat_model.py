"""A model that writes a chat's next message: what it is asked, what it answers, and one that a function plays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gigpo_lightning.errors import check_count

_CUT = ("length", "content_filter")
_PASSING = (408, 409, 425, 429)  # and every 5xx: another try may succeed

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """The message that a server has answered with.

    Attributes:
        text: What it says.
        thought: What the server keeps apart as the model's reasoning; empty where it does not.
        calls: Name and arguments of each tool that it calls; the arguments are JSON, as the model wrote them.
        finish_reason: Why it ended, in the server's words, such as ``"stop"``, ``"length"`` or ``"content_filter"``.
        model: The model that has answered, by the server's own name for it.
        prompt_tokens: Tokens that the server has read; 0 where it does not say.
        reply_tokens: Tokens that it has written, thoughts included; 0 where it does not say.
        tries: Requests that it took.
    """

    text: str
    thought: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str = "stop"
    model: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0
    tries: int = 1

    @property
    def cut(self) -> bool:
        """Whether it was broken off before the model had ended it."""
        return self.finish_reason in _CUT


class ChatServerError(Exception):
    """A server has given no reply.

    Args:
        url: The address that was asked.
        reason: What it did.
        status: Of its last answer; 0 where there was none.
        wait: Seconds that it asks to be left alone for.
    """

    def __init__(self, url: str, reason: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(f"the chat server {url} {reason}")
        self.url = url
        self.status = status
        self.wait = wait

    @property
    def passing(self) -> bool:
        """Whether another try may succeed."""
        return self.status == 0 or self.status >= 500 or self.status in _PASSING

    @property
    def lasting(self) -> bool:
        """Whether no request could succeed: the key is refused, nothing is paid, there is no such model or address."""
        return self.status in (401, 402, 403, 404)


@runtime_checkable
class ChatModel(Protocol):
    """Writes a chat's next message; picklable, and safe to be asked by several threads at once."""

    @property
    def model(self) -> str:
        """Its name."""

    def ask(
        self, messages: Sequence[Message], *, temperature: float, max_tokens: int, seed: int, deadline: float
    ) -> ChatReply:
        """The next message of a chat, within ``deadline`` seconds.

        Raises:
            ChatServerError: If there is none.
        """


@runtime_checkable
class HasFields(Protocol):
    """A model that is asked for more than its replies' temperature."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """What else decides about its replies."""


class ScriptedChat:
    """Replies by a function, for tests and examples.

    A judge's record knows it by ``model`` alone: a function that has changed needs another name.

    Args:
        script: Gives the reply to a chat, as text; it may raise ``ChatServerError``.
        model: The name that it answers by.
        tokens: Tokens that it says each prompt and each reply has.
    """

    def __init__(self, script: Callable[[Sequence[Message]], str], model: str = "scripted", tokens: int = 0) -> None:
        check_count("tokens", tokens, 0)
        self.script = script
        self.model = model
        self.tokens = tokens

    def ask(
        self, messages: Sequence[Message], *, temperature: float, max_tokens: int, seed: int, deadline: float
    ) -> ChatReply:
        """What the script says."""
        said = self.script(messages)
        return ChatReply(text=said, model=self.model, prompt_tokens=self.tokens, reply_tokens=self.tokens)
