"""A tokenizer of whole words with a chat template, for tests of what is imitated."""

from collections.abc import Collection, Mapping, Sequence

END, TURN_END = "</s>", "<end>"


class Words:
    """Gives every new word the next number; a message is ``<role> words <end>``.

    Args:
        turn_end: The word that ends a message in its template.
    """

    def __init__(self, turn_end: str = TURN_END) -> None:
        self.known: list[str] = [END, TURN_END]
        self.turn_end = turn_end

    end_token_id = 0

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        return (0, 1)

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self.known:
                self.known.append(word)
        return [self.known.index(word) for word in text.split()]

    def as_text(self, text: str, markers: Collection[str] = ()) -> str:
        return text

    def encode_chat(self, messages: Sequence[Mapping[str, str]], **_: object) -> list[int]:
        said = [f"<{each['role']}> {each['content']} {self.turn_end}" for each in messages]
        return self.encode(" ".join((*said, "<assistant>")))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.known[i] for i in ids if i > 1)

    def exact(self, ids: Sequence[int]) -> str:
        """All words, ends too."""
        return " ".join(self.known[i] for i in ids)
