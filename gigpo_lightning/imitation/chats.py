"""Demonstrations in JSONL files: chats, or prompts with their completions, one episode a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gigpo_lightning.errors import check_count
from gigpo_lightning.imitation.base import EndingTokenizer, Episode, Example, FileDemonstrations, merge_turns
from gigpo_lightning.strict_json import load_json

Message: TypeAlias = Mapping[str, str]

_SHAPE = '{"messages": [{"role": "user", "content": "..."}, ...]} or {"prompt": ..., "completion": ...}'


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line asks to be learnt: replies to a chat, or one reply to plain text."""

    shown: Sequence[Message] | str
    messages: Sequence[Message]  # of which the assistant's are learnt
    completion: str = ""


class ChatMessages(FileDemonstrations):
    """Episodes in JSONL files of chats, as TRL and verl train on them, one a line.

    A line is ``{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}`` or
    ``{"prompt": ..., "completion": ...}``, both lists of messages or both plain text, which then goes around the chat
    template; other keys are ignored. Of messages only the assistant's are learnt, each after the model's own chat
    template and with the token that ends a turn there; of a prompt nothing is. A conversation whose template only ever
    grows is one row.

    Args:
        files: Files, or folders of ``*.jsonl``.
        held_out_files: Files, or folders, that the loss is measured on; default: a share of ``files``.
        held_out_share: Share of the episodes of ``files`` that are kept from training, if there are no
            ``held_out_files``; episodes that begin alike stay together.
        turns_shown: Earlier turns, a message and its reply each, that stand before the message that is answered,
            beside the system's; 0 fits a prompt that shows one fresh message a turn. Default: all.
        chat_template_kwargs: What the chat template takes beside the messages; those of the prompt that comes after.

    Raises:
        ValueError: If a file does not exist, or a number is out of its range.
    """

    pattern = "*.jsonl"

    def __init__(
        self,
        files: str | list[str],
        held_out_files: str | list[str] | None = None,
        held_out_share: float = 0.1,
        turns_shown: int | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(files, held_out_files, held_out_share)
        if turns_shown is not None:
            check_count("turns_shown", turns_shown, 0)
        self.turns_shown = turns_shown
        self.chat_template_kwargs = chat_template_kwargs or {}

    def prepare(self) -> None:
        """Read every line, so that what is wrong is said before a model is loaded.

        Raises:
            ValueError: At the first line that is wrong; the message names file and line.
        """
        for path in (*self.paths(held_out=False), *self.paths(held_out=True)):
            _read(path)

    def read(self, path: Path, tokenizer: EndingTokenizer) -> list[Episode]:
        """The lines of a file as rows of tokens.

        Raises:
            ValueError: At the first line that is wrong, or that the chat template refuses.
        """
        end: int | None = None
        encoded: list[Episode] = []
        for number, line in _read(path):
            try:
                if isinstance(line.shown, str):
                    reply = (*tokenizer.encode(line.completion), tokenizer.end_token_id)
                    encoded.append([Example(prompt_ids=tuple(tokenizer.encode(line.shown)), reply_ids=reply)])
                    continue
                end = _turn_end(tokenizer) if end is None else end
                encoded.append(self._rows(line.shown, line.messages, tokenizer, end))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
        return encoded

    def _rows(
        self, shown: Sequence[Message], messages: Sequence[Message], tokenizer: EndingTokenizer, end: int
    ) -> list[Example]:
        """A row for each reply, put together where the conversation only grows."""
        turns, chat = [], list(shown)
        for message in messages:
            if message["role"] == "assistant":
                prompt = tokenizer.encode_chat(_last_turns(chat, self.turns_shown), **self.chat_template_kwargs)
                reply = (*tokenizer.encode(message["content"]), end)
                turns.append(Example(prompt_ids=tuple(prompt), reply_ids=reply))
            chat.append(message)
        return merge_turns(turns)


def _read(path: Path) -> list[tuple[int, _Line]]:
    """The lines of a file, each with its number from 1; blank ones are left out."""
    lines = []
    try:
        texts = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} must be a JSONL file, but cannot be read: {error}") from error
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            lines.append((number, _parsed(load_json(text))))
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not lines:
        raise ValueError(f"{path} must hold an episode a line, but is empty")
    return lines


def _parsed(entry: Any) -> _Line:
    """What a line asks to be learnt."""
    keys = set(entry) & {"messages", "prompt", "completion"} if isinstance(entry, dict) else set()
    if keys == {"messages"}:
        return _with_reply(_Line((), _messages("messages", entry["messages"])))
    if keys != {"prompt", "completion"}:
        raise ValueError(f"must be {_SHAPE}, got {_short(entry)}")
    prompt, completion = entry["prompt"], entry["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt or not completion:
            raise ValueError(f"{'completion' if prompt else 'prompt'} must not be empty")
        return _Line(prompt, (), completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise ValueError("prompt and completion must both be text, or both lists of messages")
    return _with_reply(_Line(_messages("prompt", prompt), _messages("completion", completion)))


def _with_reply(line: _Line) -> _Line:
    """Refuse a chat of which nothing would be learnt, or that begins with a reply to nothing."""
    if not any(message["role"] == "assistant" for message in line.messages):
        raise ValueError("must have a message of the role 'assistant', which is what is learnt, got none")
    if not line.shown and line.messages[0]["role"] == "assistant":
        raise ValueError("must have a message before the assistant's first, got none")
    return line


def _messages(name: str, found: Any) -> list[Message]:
    """A list of messages with a role and text each."""
    if not isinstance(found, list) or not found:
        raise ValueError(f"{name} must be a list of messages, got {_short(found)}")
    messages: list[Message] = []
    for number, message in enumerate(found):
        fields = message if isinstance(message, dict) else {}
        for key in ("role", "content"):
            if not isinstance(fields.get(key), str):
                raise ValueError(f"{name}[{number}] must have text as its {key!r}, got {_short(message)}")
        if message["role"] == "assistant" and not message["content"]:
            raise ValueError(f"{name}[{number}] must not be empty: it is a reply to be learnt")
        messages.append({key: fields[key] for key in ("role", "content")})
    return messages


def _last_turns(chat: Sequence[Message], turns_shown: int | None) -> Sequence[Message]:
    """The system's first messages, so many turns, and what has been said since the last reply."""
    if turns_shown is None:
        return chat
    first = next((at for at, message in enumerate(chat) if message["role"] != "system"), len(chat))
    replies = [at for at, message in enumerate(chat) if message["role"] == "assistant"]
    ends = [first, *(at + 1 for at in replies)]
    return [*chat[:first], *chat[ends[max(0, len(ends) - 1 - turns_shown)] :]]


def _turn_end(tokenizer: EndingTokenizer) -> int:
    """The token that ends an assistant's message in the model's chat template; the tokenizer's own end where none does.

    A template may end turns with another token than the one that ends a text, as Gemma's does.
    """
    opened = tokenizer.encode_chat([{"role": "user", "content": "a"}])
    try:
        chat = tokenizer.encode_chat([{"role": role, "content": "a"} for role in ("user", "assistant", "user")])
    except ValueError:  # a template for one turn
        return tokenizer.end_token_id
    after = chat[len(opened) :] if chat[: len(opened)] == opened else []
    return next((token for token in after if token in tokenizer.stop_token_ids), tokenizer.end_token_id)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
