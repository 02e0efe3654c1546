"""The nouns of a title: what the reward takes for the kind of a product."""

import importlib
import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

from gigpo_lightning.errors import RunError
from gigpo_lightning.per_process import PerProcess

_TAGS = frozenset({"NOUN", "PROPN", "PNOUN"})  # the last is no tag of spaCy's, but the original asks for it
_REMEMBERED_TITLES = 1 << 16

_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTION_WORDS = """
a about an and are as at be but by can for from has have if in into is it its no not of on or our so than that the their
this to up was we will with you your
"""
_NO_NOUNS = frozenset(_FUNCTION_WORDS.split())


@runtime_checkable
class Nouns(Protocol):
    """Names what a title speaks of.

    The reward asks for the same titles again and again, so an implementation remembers its answers; it is picklable, so
    that environments may live in other processes.
    """

    def __call__(self, title: str) -> tuple[str, ...]:
        """Return the title's nouns, lower-cased, in order and with repeats."""


class SpacyNouns(PerProcess):
    """The nouns that spaCy tags, as the original takes them: common and proper ones.

    spaCy and its model are not among the project's packages: ``pip install spacy`` and
    ``python -m spacy download en_core_web_sm``. Each process loads the model when it first needs it.

    Args:
        model: Name or folder of a spaCy model that tags parts of speech. Tags differ between models and their versions;
            the original pins spaCy 3.4 and ``en_core_web_sm``.
    """

    def __init__(self, model: str = "en_core_web_sm") -> None:
        self.model = model

    def __call__(self, title: str) -> tuple[str, ...]:
        """Return the title's nouns, lower-cased, in order and with repeats.

        Raises:
            RunError: If spaCy or its model is not installed.
        """
        return self._of_title(title)

    @cached_property
    def _of_title(self) -> Callable[[str], tuple[str, ...]]:
        try:
            tag = importlib.import_module("spacy").load(self.model)
        except (ImportError, OSError) as error:
            raise RunError(
                f"SpacyNouns needs spaCy and its model {self.model} ({error}): pip install spacy && python -m spacy "
                f"download {self.model}, or take PlainNouns"
            ) from error

        @lru_cache(maxsize=_REMEMBERED_TITLES)
        def of_title(title: str) -> tuple[str, ...]:
            return tuple(token.text.lower() for token in tag(title) if token.pos_ in _TAGS)

        return of_title


class PlainNouns:
    """Every word that is no function word; needs nothing installed.

    A word is a run of at least two letters; digits and marks part words, so ``921ORB`` gives ``orb``. Adjectives and
    verbs count as nouns here: the reward for a product that is not the goal's own may differ from the original's.
    """

    def __call__(self, title: str) -> tuple[str, ...]:
        """Return the title's words without function words, lower-cased, in order and with repeats."""
        return _plain(title)


@lru_cache(maxsize=_REMEMBERED_TITLES)
def _plain(title: str) -> tuple[str, ...]:
    return tuple(word for word in _WORD.findall(title.lower()) if word not in _NO_NOUNS)
