"""A tokenizer with one token a word, for tests of templates: ids are given as words are met."""

import re
from collections.abc import Collection, Mapping, Sequence


class GrowingTokenizer:
    """Splits text into words and single other characters, and can say what it was given."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {"<end>": 0}

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        return (0,)

    def encode(self, text: str) -> list[int]:
        parts = re.findall(r"<?\w+>?|\s+|[^\w\s]", text)
        return [self._ids.setdefault(part, len(self._ids)) for part in parts if not part.isspace()]

    def as_text(self, text: str, markers: Collection[str] = ()) -> str:
        return text

    def encode_chat(self, messages: Sequence[Mapping[str, str]], **_: object) -> list[int]:
        return [token for message in messages for token in self.encode(f"<{message['role']}> {message['content']}")]

    def decode(self, ids: Sequence[int]) -> str:
        parts = {number: part for part, number in self._ids.items()}
        return " ".join(parts[number] for number in ids if number)
