"""Messages as tokens, and back: how prompts reach a server that takes messages and has the only tokenizer of its model.

A token is a byte of UTF-8, or one of five marks. Prompts write their messages through the chat template below, as
through any model's; what stands between the marks is read back to the byte. Nothing is lost and nothing is guessed,
because no text can spell a mark.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from gigpo_lightning.text import shown

BYTES = 256
MESSAGE, CONTENT, END, TOOLS, SETTINGS = MARKS = ("<|message|>", "<|content|>", "<|end|>", "<|tools|>", "<|settings|>")
"""A mark's token id is 256 plus its place here."""
MESSAGE_ID, CONTENT_ID, END_ID, TOOLS_ID, SETTINGS_ID = range(BYTES, BYTES + len(MARKS))
VOCABULARY_SIZE = BYTES + len(MARKS)

CHAT_TEMPLATE = "".join(
    (
        "{% if tools %}<|tools|>{{ tools | tojson }}{% endif %}",
        "{% if enable_thinking is defined %}<|settings|>{{ {'enable_thinking': enable_thinking} | tojson }}{% endif %}",
        "{% for message in messages %}<|message|>{{ message.role }}<|content|>{{ message.content or '' }}",
        "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}",
        "<|end|>{% endfor %}",
        "{% if add_generation_prompt %}<|message|>assistant<|content|>{% endif %}",
    )
)
"""Calls are written as Hermes models write them, in the text of their message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessages:
    """What a prompt asks a model of chats.

    Attributes:
        messages: A role and a content each, oldest first.
        tools: JSON schemas of the functions that it may call.
        settings: What else the prompt gives a chat template, such as ``enable_thinking``.
    """

    messages: tuple[Mapping[str, str], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def text_tokens(text: str) -> list[int]:
    """A text's tokens: its bytes in UTF-8.

    Example:
        >>> text_tokens("é!")
        [195, 169, 33]
    """
    return list(text.encode())


def read_messages(ids: Sequence[int]) -> ChatMessages:
    """The messages of a prompt in tokens; a prompt in plain words, without any mark, is one message of the user's.

    Example:
        >>> read_messages([MESSAGE_ID, *text_tokens("user"), CONTENT_ID, *text_tokens("Hi"), END_ID]).messages
        ({'role': 'user', 'content': 'Hi'},)

    Raises:
        ValueError: If the tokens are not of this kind.
    """
    parts = _parts(ids)
    if not parts:
        raise _not_ours(ids)
    if [mark for mark, _ in parts] == [None]:
        return ChatMessages(messages=({"role": "user", "content": parts[0][1]},))
    tools: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = {}
    messages: list[Mapping[str, str]] = []
    role = None
    for mark, text in parts:
        if mark == TOOLS_ID:
            tools = tuple(_json(text, ids))
        elif mark == SETTINGS_ID:
            settings = _json(text, ids)
        elif mark == MESSAGE_ID:
            role = text
        elif mark == CONTENT_ID and role is not None:
            messages.append({"role": role, "content": text})
        elif text or mark != END_ID:
            raise _not_ours(ids)
    if messages and parts[-1][0] == CONTENT_ID:  # what the model is to write
        messages.pop()
    return ChatMessages(messages=tuple(messages), tools=tools, settings=settings)


def _parts(ids: Sequence[int]) -> list[tuple[int | None, str]]:
    """Each mark with the text after it; the text before the first has none."""
    parts: list[tuple[int | None, str]] = []
    for is_mark, group in groupby(ids, lambda number: number >= BYTES):
        found = list(group)
        if is_mark:
            if max(found) >= VOCABULARY_SIZE:
                raise _not_ours(ids)
            parts += [(mark, "") for mark in found]
            continue
        try:
            text = bytes(found).decode()
        except ValueError as error:  # no bytes, or not of a text
            raise _not_ours(ids) from error
        mark = parts.pop()[0] if parts else None
        parts.append((mark, text))
    return parts


def _json(text: str, ids: Sequence[int]) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _not_ours(ids) from error


def _not_ours(ids: Sequence[int]) -> ValueError:
    return ValueError(
        "a prompt must be in the tokens of gigpo_lightning.prompts.message_tokens, as modules.ServedPolicy writes it, "
        f"got {shown(list(ids))}"
    )
