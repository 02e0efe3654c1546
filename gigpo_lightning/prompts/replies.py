"""What a reply of a chat looks like: tags, the bare action, or a tool call; one class each, chosen by class path."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gigpo_lightning.environments.tools import Tool, ToolCall
from gigpo_lightning.prompts.base import ChatTokenizer, ParsedAction, TurnView, WholeReply
from gigpo_lightning.prompts.text import TextPrompt, tagged_order

_THOUGHT = re.compile(r"<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the policy wrote at one turn.

    Attributes:
        text: In words, special tokens left out.
        exact: In words, special tokens and all, without the token that ended it.
        message: The same, as the tokenizer's own rules for replies read it; None of a form that does not want it, and
            of a reply that does not follow the rules.
    """

    text: str
    exact: str
    message: Mapping[str, Any] | None = None


class ReplyFormat(ABC):
    """The form of the replies of a chat, and its parser."""

    has_calls: ClassVar[bool] = False
    """Whether replies may call tools."""
    reads_messages: ClassVar[bool] = False
    """Whether a reply's ``message`` is wanted, which takes time."""

    @property
    def shows_offer(self) -> bool:
        """Whether the available actions are of use to a policy that replies in this form."""
        return True

    def check(self, tokenizer: ChatTokenizer) -> None:  # noqa: B027  most forms need nothing of it
        """Refuse a tokenizer whose replies cannot be read; ValueError says why."""

    def order(self, view: TurnView) -> str:
        """What the policy is told of it; part of the system's message."""
        return ""

    def tools(self, view: TurnView) -> Sequence[Tool]:
        """JSON schemas of the functions that the policy may call; none in most forms.

        Raises:
            ValueError: If the environment gives tools, and this form has no calls.
        """
        if view.tools:
            raise ValueError(
                "reply must be a form of tool calls, such as gigpo_lightning.prompts.tool_calls.HermesToolCalls, for "
                f"an environment that gives info['tools'], got {type(self).__name__}"
            )
        return ()

    def calls(self, reply: Reply) -> Sequence[ToolCall]:
        """The calls in a reply, whether or not they are right; none in most forms, nor where they cannot be read."""
        return ()

    @abstractmethod
    def parse(self, reply: Reply, view: TurnView) -> ParsedAction:
        """Read the action from any reply; never raises."""

    def write(self, action: str, view: TurnView) -> str:
        """The reply that ``parse`` reads as this action, for demonstrations."""
        return action


class PlainReply(ReplyFormat):
    """The whole reply is the action; it is valid if it is an admissible one."""

    def parse(self, reply: Reply, view: TurnView) -> ParsedAction:
        """Take the reply, stripped, as the action."""
        return WholeReply().parse(reply.text, view)


class TaggedReply(ReplyFormat):
    """Thinks and acts between tags, as the replies to ``TextPrompt`` do.

    Args:
        require_think: The reply is told to think first, and one without think tags is invalid.
        require_admissible: An action outside the available ones is invalid.
    """

    def __init__(self, require_think: bool = True, require_admissible: bool = False) -> None:
        self.require_think = require_think
        self._tags = TextPrompt(require_think=require_think, require_admissible=require_admissible)

    def order(self, view: TurnView) -> str:
        """Which tags to write."""
        return tagged_order("At every turn, choose what to do next.", self.require_think)

    def parse(self, reply: Reply, view: TurnView) -> ParsedAction:
        """Read what stands between the first action tags; nothing is sent without them."""
        return self._tags.parse(reply.text, view)

    def write(self, action: str, view: TurnView) -> str:
        """The action between its tags, after an empty thought where there must be one."""
        return f"{'<think></think>' if self.require_think else ''}<action>{action}</action>"


def without_thought(text: str) -> str:
    """A reply without what stands between think tags; a thought may have begun in the prompt, or never end.

    Example:
        >>> without_thought("<think>left?</think> left"), without_thought("left?</think>left")
        ('left', 'left')
    """
    opened, closed = text.find("<think>"), text.find("</think>")
    if closed >= 0 and not 0 <= opened < closed:
        text = text[closed + len("</think>") :].lstrip()
    return _THOUGHT.sub("", text)
