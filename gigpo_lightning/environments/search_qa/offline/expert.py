"""A scripted expert for the invented world: it knows only what it has read, so that what it does can be learnt."""

import random
import re
from collections.abc import Sequence

from gigpo_lightning.errors import check_range, check_seed

_BIRTHPLACE, _REGION, _TRADE, _AUTHOR = "birthplace", "region", "trade", "author"

# What is asked for, last relation first applied: the answer to each is what the next is asked about.
_QUESTIONS = (
    (r"where was the author of (?P<of>.+) born", (_AUTHOR, _BIRTHPLACE)),
    (r"what is the trade of the author of (?P<of>.+)", (_AUTHOR, _TRADE)),
    (r"where was (?P<of>.+) born", (_BIRTHPLACE,)),
    (r"what is the trade of (?P<of>.+)", (_TRADE,)),
    (r"in which region was (?P<of>.+) born", (_BIRTHPLACE, _REGION)),
    (r"in which region is (?P<of>.+)", (_REGION,)),
    (r"who wrote (?P<of>.+)", (_AUTHOR,)),
)
_SENTENCES = {
    _BIRTHPLACE: r"{} is a \w+ who was born in (\w+)",
    _TRADE: r"{} is a (\w+) who was born in",
    _AUTHOR: r"{} is a novel written by (\w+ \w+)",
    _REGION: r"{} is a town in the region of (\w+)",
}


class ReadingExpert:
    """Searches for what the question names, reads what it needs there, and goes on with that until it can answer.

    Args:
        haste: How often, of its turns, it answers with the last name it has come to instead: an expert for a warm
            start that leaves something to learn.
        seed: Of its haste.

    Raises:
        ValueError: If ``haste`` is not in [0, 1].
    """

    def __init__(self, haste: float = 0.0, seed: int = 0) -> None:
        check_range("haste", haste, 0.0, 1.0)
        check_seed(seed)
        self.haste = haste
        self._rng = random.Random(seed)
        self._name = ""
        self._relations: tuple[str, ...] = ()

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode and begin one.

        Raises:
            ValueError: If the question is not one of the invented world's.
        """
        for pattern, relations in _QUESTIONS:
            found = re.fullmatch(pattern, instruction.strip().rstrip("?").lower())
            if found:
                self._name, self._relations = found["of"], relations
                return
        raise ValueError(f"instruction must be a question of the invented world, got {instruction!r}")

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """Say what to do now, in lower-case words and tags with spaces between them."""
        self._read(observation.lower())
        if not self._relations or self._rng.random() < self.haste:
            return f"<answer> {self._name} </answer>"
        return f"<search> {self._name.removeprefix('the ')} </search>"

    def observe(self, action: str) -> None:
        """Nothing to hear: all that matters is in the next observation."""

    def _read(self, observation: str) -> None:
        """Go from name to name as far as the passages lead."""
        while self._relations:
            sentence = _SENTENCES[self._relations[0]].format(re.escape(self._name))
            found = re.search(sentence, observation)
            if found is None:
                return
            self._name, self._relations = found[1], self._relations[1:]
