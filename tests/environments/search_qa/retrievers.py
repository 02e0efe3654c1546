"""Retrievers for tests: one that is told what to answer, and one that looks for words in a small corpus."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gigpo_lightning.retrieval.base import Passage


def passage(title: str, text: str, score: float = 1.0) -> Passage:
    return Passage(id=title, title=title, text=text, score=score)


class ScriptedRetriever:
    """Gives the same answer to every query, or raises it, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        self.asked.append((list(queries), top_k))
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: list[list[Passage]] = self.answer
        return answer


class WordRetriever:
    """Ranks the passages of a corpus file by the words they share with a query, rare ones first."""

    def __init__(self, corpus: Path) -> None:
        self.passages: list[Passage] = []
        for line in corpus.read_text().splitlines():
            row = json.loads(line)
            title, _, text = row["contents"].partition("\n")
            self.passages.append(Passage(id=row["id"], title=title.strip('"'), text=text, score=0.0))
        self.words = [Counter(_words(f"{each.title} {each.text}")) for each in self.passages]
        self.found_in = Counter(word for words in self.words for word in words)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        return [self._search(query, top_k) for query in queries]

    def _search(self, query: str, top_k: int) -> list[Passage]:
        asked = set(_words(query))
        scores = [sum(self._weight(word, words[word]) for word in asked & words.keys()) for words in self.words]
        best = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
        return [self.passages[row] for row in best[:top_k] if scores[row] > 0]

    def _weight(self, word: str, times: int) -> float:
        return math.log(1 + len(self.passages) / self.found_in[word]) * times / (times + 1)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
