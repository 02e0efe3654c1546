"""A conversation as the model's template writes it, and where in it each reply stands.

Replies enter the template between two signs, characters that no text has. What the template leaves between the signs of
a reply tells whether it shows the reply as it was written.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gigpo_lightning.prompts.base import ChatTokenizer, Turn

_OPEN, _CLOSE, _END = "\ufdd1", "\ufdd2", "\ufdd3"  # noncharacters
_SIGN = re.compile(f"([{_OPEN}{_CLOSE}])(\\d+){_END}")
_TAKEN = dict.fromkeys(map(ord, (_OPEN, _CLOSE, _END)))


def without_signs(text: str) -> str:
    """A text of the world without the characters that signs are made of."""
    return text.translate(_TAKEN)


def signed(text: str, number: int) -> str:
    """A reply between its signs."""
    return f"{_OPEN}{number}{_END}{without_signs(text)}{_CLOSE}{number}{_END}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatText:
    """A conversation's text, without signs.

    Attributes:
        text: What the template wrote.
        begins: By a turn's number, the place of its reply's first character.
        ends: By a turn's number, the place after its reply.
    """

    text: str
    begins: Mapping[int, int]
    ends: Mapping[int, int]

    @classmethod
    def read(cls, signed_text: str) -> "ChatText":
        """Take the signs out of a text, and remember where they stood."""
        parts: list[str] = []
        length = last = 0
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        for found in _SIGN.finditer(signed_text):
            parts.append(signed_text[last : found.start()])
            length += len(parts[-1])
            last = found.end()
            (begins if found[1] == _OPEN else ends)[int(found[2])] = length
        parts.append(signed_text[last:])
        return cls(text="".join(parts), begins=begins, ends=ends)


def written(turn: Turn, tokenizer: ChatTokenizer) -> str:
    """What was written at a turn, without the token that ended it, in text that ``encode`` reads."""
    return _written(turn.completion_ids, tokenizer)  # type: ignore[arg-type]  # a protocol does not say that it hashes


@lru_cache(maxsize=1 << 13)  # asked again at every later turn of its episode
def _written(completion_ids: tuple[int, ...], tokenizer: ChatTokenizer) -> str:
    return without_signs(tokenizer.written_text(without_end(completion_ids, tokenizer)))


def without_end(completion_ids: tuple[int, ...], tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """A reply without the token that ended it; a reply that was cut has none."""
    return completion_ids[:-1] if completion_ids and completion_ids[-1] in tokenizer.stop_token_ids else completion_ids


def tokens_after(turn: Turn, text: str, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of what follows a turn's reply; the token that ended the reply is not written a second time."""
    last = turn.completion_ids[-1]
    if last in tokenizer.stop_token_ids:
        end = tokenizer.exact_text((last,))
        blank, found, rest = text.partition(end)
        if found and not blank.strip():
            ids = tokenizer.encode(end + rest)  # with the end, so that rest is not taken for the beginning of a text
            return ids[1:] if ids[:1] == [last] else tokenizer.encode(rest)
    return tokenizer.encode(text)


def tokens_anew(chat: ChatText, turns: Sequence[Turn], tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a whole conversation: replies that it shows as they were written as they were sampled."""
    ids: list[int] = []
    place, before = 0, None
    for number in sorted(chat.begins.keys() & chat.ends.keys()):
        turn, begin, end = turns[number], chat.begins[number], chat.ends[number]
        if begin < place or chat.text[begin:end] != written(turn, tokenizer):
            continue
        text = chat.text[place:begin]
        ids += tokenizer.encode(text) if before is None else tokens_after(before, text, tokenizer)
        ids += turn.completion_ids
        place, before = end, turn
    text = chat.text[place:]
    return ids + (tokenizer.encode(text) if before is None else tokens_after(before, text, tokenizer))
