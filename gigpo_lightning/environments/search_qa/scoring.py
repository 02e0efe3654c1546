"""Exact match, as open-domain question answering has counted it since SQuAD."""

import re
import string
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, then without articles, with single spaces.

    The order matters: "A." loses its point before it is taken for an article.

    Example:
        >>> normalize_answer(" The  Queen's gaoler. ")
        'queens gaoler'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golden_answers: Iterable[str]) -> bool:
    """Whether a prediction equals any of the golden answers, both normalized.

    What normalizes to nothing, such as "The The" or "!!!", equals nothing. Differs from the official count, where an
    empty prediction then is right.
    """
    said = normalize_answer(prediction)
    return said != "" and any(normalize_answer(answer) == said for answer in golden_answers)
