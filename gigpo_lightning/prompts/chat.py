"""Conversations: a context that grows from turn to turn, through the model's own chat template."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gigpo_lightning.environments.tools import ToolCall
from gigpo_lightning.errors import check_count
from gigpo_lightning.prompts.base import (
    ChatTokenizer,
    EncodedPrompt,
    ParsedAction,
    Tokenizer,
    Turn,
    TurnView,
)
from gigpo_lightning.prompts.chat_text import (
    ChatText,
    signed,
    tokens_after,
    tokens_anew,
    without_end,
    without_signs,
    written,
)
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.replies import PlainReply, Reply, ReplyFormat, TaggedReply, without_thought
from gigpo_lightning.prompts.world_text import as_text, tree_as_text

SYSTEM, USER, ASSISTANT = "<system>", "<user>", "<assistant>"

Message = dict[str, Any]


class _Form(NamedTuple):
    """How a conversation is put to a template.

    Attributes:
        system: The role is a system's message; otherwise it stands before the first turn.
        calls: Calls are an entry of a reply's message; otherwise they are its text, as it was written.
    """

    system: bool
    calls: bool


class ChatPrompt:
    """A conversation: the role, then what the environment says and what the policy replied, in turn.

    A turn's prompt is the last prompt, the reply as it was sampled, and the tokens of what is new: nothing that was
    sampled is rendered again. Where the template writes earlier turns in another way, as those that leave thoughts out
    do, the prompt is rendered anew; so it is where turns are left out. ``rollout/rewritten_prompts`` counts these.

    The first message shown begins with what is asked for. A role that the template does not take as a system's message
    stands before it.

    Args:
        role: What the policy is and how its world works, in a few sentences.
        reply: The form of the replies; default: thoughts and actions between tags.
        drop_thinking: Show earlier replies without what stands between think tags.
        last_turns: Show only so many earlier turns; default: all that there is room for.
        changed_offers: List the available actions in the first message, and afterwards only which came and went.
        keep_written: Let the conversation grow also where the template would write earlier turns in another way.
        chat_template_kwargs: What the model's chat template takes beside the messages, such as ``enable_thinking``.

    Raises:
        ValueError: If ``last_turns`` is negative, or thoughts are to be both kept and dropped.
    """

    writes_chats = True

    def __init__(
        self,
        role: str = "",
        reply: ReplyFormat | None = None,
        drop_thinking: bool = False,
        last_turns: int | None = None,
        changed_offers: bool = False,
        keep_written: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if last_turns is not None:
            check_count("last_turns", last_turns, 0)
        if keep_written and drop_thinking:
            raise ValueError("keep_written must be false where drop_thinking is true: a thought is kept or dropped")
        self.role = role
        self.reply = reply if reply is not None else TaggedReply()
        self.drop_thinking = drop_thinking
        self.last_turns = last_turns
        self.changed_offers = changed_offers
        self.keep_written = keep_written
        self.chat_template_kwargs = chat_template_kwargs or {}
        self._forms = [_Form(*each) for each in ((True, False), (False, False), (True, True), (False, True))]

    def check(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that the replies' form cannot be read with.

        Raises:
            ValueError: If it is one.
        """
        assert isinstance(tokenizer, ChatTokenizer)
        self.reply.check(tokenizer)

    def system(self, view: TurnView) -> str:
        """The system's message."""
        return "\n\n".join(filter(None, (self.role, self.reply.order(view))))

    def message(self, view: TurnView, number: int, first: int) -> str:
        """What the environment said at a turn, as the policy is shown it.

        Args:
            view: The present turn, with all earlier ones.
            number: The turn's number, from 0.
            first: Number of the first turn shown.
        """
        observation, offered = _said(view, number)
        parts = [observation]
        if number == first and view.instruction and view.instruction != observation:
            parts.insert(0, f"Your task is: {view.instruction}")
        if offered is not None and self.reply.shows_offer:
            before = _said(view, number - 1)[1] if self.changed_offers and number > first else None
            parts.append(_tell_offer(offered) if before is None else _tell_changes(offered, before))
        return "\n\n".join(filter(None, parts))

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest turns go first, then the observation's beginning.

        Raises:
            NoRoomError: If role, task and available actions alone are longer than ``max_tokens``.
            ValueError: If the chat template refuses the conversation.
        """
        assert isinstance(tokenizer, ChatTokenizer)
        view = as_text(view, tokenizer, self)
        if view.history and not view.turns:  # an expert's, known in words alone
            view = replace(view, turns=tuple(Turn(observation=said, action=done) for said, done in view.history))
        taken = len(view.turns)
        wanted = 0 if self.last_turns is None else max(0, taken - self.last_turns)
        left_out = max(wanted, view.turns[-1].first_turn if view.turns else 0)
        for first in range(left_out, taken + 1):
            ids = self._tokens(view, first, tokenizer)
            if len(ids) <= max_tokens:
                return EncodedPrompt(ids=tuple(ids), truncated=first > wanted, first_turn=first)

        def write(_turns: int, observation: str) -> list[int]:
            return self._tokens(replace(view, observation=observation), taken, tokenizer)

        return replace(fit_prompt(write, 0, view.observation, max_tokens), first_turn=taken)

    def _tokens(self, view: TurnView, first: int, tokenizer: ChatTokenizer) -> list[int]:
        """The last prompt, the last reply and what is new, if the template agrees; otherwise all of it anew."""
        chat = ChatText.read(self._write(view, first, tokenizer))
        last = view.turns[-1] if len(view.turns) > first else None
        if last is not None and last.first_turn == first and last.completion_ids:
            end = self._end_of_last(chat, view, first, tokenizer)
            if end is not None:
                return [*last.prompt_ids, *last.completion_ids, *tokens_after(last, chat.text[end:], tokenizer)]
        return tokens_anew(chat, view.turns, tokenizer)

    def _end_of_last(self, chat: ChatText, view: TurnView, first: int, tokenizer: ChatTokenizer) -> int | None:
        """Where in the text the last reply ends; None if what is before it is not what was shown and written."""
        number = len(view.turns) - 1
        end = chat.ends.get(number)
        if end is not None and self.keep_written:
            return end
        reply = written(view.turns[number], tokenizer)
        if self.drop_thinking and without_thought(reply) != reply:
            return None
        shown = ChatText.read(self._write(_before_last(view), first, tokenizer)).text
        if not chat.text.startswith(shown):
            return None
        if end is None:  # a call that the template has written in its own way, or a reply that it has left out
            return _next_end(chat.text, len(shown), tokenizer) if self._forms[0].calls else None
        return end if chat.text[len(shown) : end] == reply else None

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read the action from a reply in words."""
        return self.reply.parse(Reply(text=response, exact=response), view)

    def parse_tokens(
        self, completion_ids: Sequence[int], prompt_ids: Sequence[int], view: TurnView, tokenizer: Tokenizer
    ) -> ParsedAction:
        """Read the action from a reply in tokens."""
        assert isinstance(tokenizer, ChatTokenizer)
        return self.reply.parse(self._read(tuple(completion_ids), tuple(prompt_ids), view, tokenizer), view)

    def write_reply(self, action: str, view: TurnView) -> str:
        """The reply that ``parse`` reads as this action."""
        return self.reply.write(action, view)

    def _write(self, view: TurnView, first: int, tokenizer: ChatTokenizer) -> str:
        """Text of a conversation, replies between their signs; the template's refusals decide about its form.

        Some templates take no system's message, and some want a call as a message's own entry.
        """
        kwargs = dict(self.chat_template_kwargs)
        if tools := self.reply.tools(view):
            kwargs["tools"] = list(tools)
        refusal: ValueError | None = None
        for form in self._forms if tools or self.system(view) else self._forms[:1]:
            messages = self._messages(view, first, tokenizer, form)
            try:
                text = tokenizer.write_chat(messages, **kwargs)
            except ValueError as error:
                refusal = refusal or error
                continue
            if form != self._forms[0]:
                self._forms = [form, *(each for each in self._forms if each != form)]  # tried first from now on
            return text
        assert refusal is not None
        raise refusal

    def _messages(self, view: TurnView, first: int, tokenizer: ChatTokenizer, form: _Form) -> list[Message]:
        system = self.system(view)
        messages: list[Message] = [{"role": "system", "content": system}] if system and form.system else []
        before: list[Message] = []  # the calls that this turn's message answers
        for number in range(first, len(view.turns) + 1):
            content = without_signs(self.message(view, number, first))
            if number == first and system and not form.system:
                content = f"{system}\n\n{content}"
            role = {"role": "tool", **before[-1]} if before else {"role": "user"}
            messages.append({**role, "content": content})
            if number < len(view.turns):
                reply, before = self._reply(view, number, tokenizer, form)
                messages.append(reply)
        return messages

    def _reply(
        self, view: TurnView, number: int, tokenizer: ChatTokenizer, form: _Form
    ) -> tuple[Message, list[Message]]:
        """The message of a reply, and who the answer to each of its calls is from."""
        turn = view.turns[number]
        if turn.completion_ids:
            reply = written(turn, tokenizer)
            shown = without_thought(reply) if self.drop_thinking else reply
            content = signed(reply, number) if shown == reply else shown
        else:  # an expert's
            content = without_signs(self.write_reply(turn.action, view))
        calls = self._calls(turn, content, view, tokenizer)
        ids = [f"{number:06d}{place:03d}" for place in range(len(calls))]  # nine digits, as Mistral's templates want
        answers: list[Message] = [
            {"tool_call_id": each, "name": tokenizer.as_text(call.name)} for each, call in zip(ids, calls, strict=True)
        ]
        if not (calls and form.calls):
            return {"role": "assistant", "content": content}, answers
        functions = [tree_as_text({"name": call.name, "arguments": call.arguments}, tokenizer) for call in calls]
        entry = [{"id": each, "type": "function", "function": it} for each, it in zip(ids, functions, strict=True)]
        return {"role": "assistant", "content": "", "tool_calls": entry}, answers

    def _calls(self, turn: Turn, content: str, view: TurnView, tokenizer: ChatTokenizer) -> Sequence[ToolCall]:
        """The calls in the reply of a turn, which is an expert's words if it has no tokens."""
        if not self.reply.has_calls:
            return ()
        if not turn.completion_ids:
            return self.reply.calls(Reply(text=content, exact=content))
        return self.reply.calls(self._read(turn.completion_ids, turn.prompt_ids, view, tokenizer))

    def _read(
        self, completion_ids: tuple[int, ...], prompt_ids: tuple[int, ...], view: TurnView, tokenizer: ChatTokenizer
    ) -> Reply:
        """A reply in words."""
        message = None
        if self.reply.reads_messages:
            message = tokenizer.read_reply(completion_ids, prompt_ids, self.reply.tools(view))
        exact = tokenizer.exact_text(without_end(completion_ids, tokenizer))
        return Reply(text=tokenizer.decode(completion_ids), exact=exact, message=message)


class CompactChatPrompt(ChatPrompt):
    """A conversation of what the environment says and nothing else; the whole reply is the action.

    For policies with a vocabulary of their own, such as ``modules.TinyPolicy`` with a chat template.

    Args:
        show_instruction: Begin the first message shown with what is asked for.
        last_turns: Show only so many earlier turns; default: all that there is room for.
        chat_template_kwargs: What the chat template takes beside the messages.

    Raises:
        ValueError: If ``last_turns`` is negative.
    """

    def __init__(
        self,
        show_instruction: bool = True,
        last_turns: int | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(reply=PlainReply(), last_turns=last_turns, chat_template_kwargs=chat_template_kwargs)
        self.show_instruction = show_instruction

    def message(self, view: TurnView, number: int, first: int) -> str:
        """What is asked for, if it is the first message shown, and what the environment said."""
        asked = (view.instruction,) if self.show_instruction and number == first else ()
        return " ".join((*asked, _said(view, number)[0]))


def chat_markers() -> tuple[str, ...]:
    """The words that begin a message in a tiny policy's chat template, for its vocabulary."""
    return SYSTEM, USER, ASSISTANT


def _next_end(text: str, start: int, tokenizer: ChatTokenizer) -> int | None:
    """The place of the next token that ends a reply."""
    places = [text.find(tokenizer.exact_text((token,)), start) for token in tokenizer.stop_token_ids]
    return min((place for place in places if place >= 0), default=None)


def _said(view: TurnView, number: int) -> tuple[str, tuple[str, ...] | None]:
    """What the environment said and offered at a turn."""
    turn = view.turns[number] if number < len(view.turns) else view
    return turn.observation, turn.admissible_actions


def _before_last(view: TurnView) -> TurnView:
    """The view of the turn before."""
    observation, offered = _said(view, len(view.turns) - 1)
    earlier = view.turns[:-1]
    return replace(view, observation=observation, admissible_actions=offered, history=view.history[:-1], turns=earlier)


def _tell_offer(offered: Sequence[str]) -> str:
    return "\n".join(("The available actions are:", *(f"  '{action}'" for action in offered)))


def _tell_changes(offered: Sequence[str], before: Sequence[str]) -> str:
    """What came and went among the available actions."""
    came = [action for action in offered if action not in before]
    went = [action for action in before if action not in offered]
    parts = [
        "\n".join((head, *(f"  '{action}'" for action in actions)))
        for head, actions in (("Now available too:", came), ("No longer available:", went))
        if actions
    ]
    return "\n".join(parts) or "The available actions are the same."
