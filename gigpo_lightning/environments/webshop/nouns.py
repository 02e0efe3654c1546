"""The nouns of a title: what the reward takes for the kind of a product."""

import importlib
import logging
import re
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

_logger = logging.getLogger(__name__)

ORIGINAL_MODEL = "en_core_web_sm"
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


class SpacyNouns:
    """The nouns that spaCy tags, as the original takes them: common and proper ones.

    spaCy and its model are not among the project's packages: ``pip install spacy`` and
    ``python -m spacy download en_core_web_sm``. A copy in another process loads the model anew.

    Args:
        model: Name or folder of a spaCy model that tags parts of speech. Tags differ between models and their versions;
            the original pins spaCy 3.4 and ``en_core_web_sm``.

    Raises:
        ImportError: If spaCy is not installed.
        ValueError: If spaCy cannot find the model.
    """

    def __init__(self, model: str = ORIGINAL_MODEL) -> None:
        self.model = model
        tag = _load(model)

        def of_title(title: str) -> tuple[str, ...]:
            return tuple(token.text.lower() for token in tag(title) if token.pos_ in _TAGS)

        self._of_title = lru_cache(maxsize=_REMEMBERED_TITLES)(of_title)

    def __call__(self, title: str) -> tuple[str, ...]:
        """Return the title's nouns, lower-cased, in order and with repeats."""
        return self._of_title(title)

    def __deepcopy__(self, memo: dict[int, object]) -> "SpacyNouns":
        """The model is one, however many environments ask it."""
        return self

    def __reduce__(self) -> tuple[type["SpacyNouns"], tuple[str]]:
        """Send the model's name, not the model."""
        return type(self), (self.model,)


class PlainNouns:
    """Every word that is no function word: for where spaCy's model is not installed.

    A word is a run of at least two letters; digits and marks part words, so ``921ORB`` gives ``orb``. Adjectives and
    verbs count as nouns here: the type factor of a product that is not the goal's own may differ from the original's.
    """

    def __call__(self, title: str) -> tuple[str, ...]:
        """Return the title's words without function words, lower-cased, in order and with repeats."""
        return _plain(title)


@cache
def default_nouns() -> SpacyNouns | PlainNouns:
    """Take spaCy's nouns where its ``en_core_web_sm`` is installed, plain words elsewhere; the log says which, once.

    One object per process, so that all its environments share what it remembers.
    """
    if find_spec("spacy") and find_spec(ORIGINAL_MODEL):
        _logger.info("WebShop's reward takes its nouns from spaCy's %s, as the original does", ORIGINAL_MODEL)
        return SpacyNouns()
    _logger.warning(
        "WebShop's reward takes every plain word of a title for a noun, because spaCy or its %s is not installed; when "
        "another product than the goal's is bought, it may differ from the original's",
        ORIGINAL_MODEL,
    )
    return PlainNouns()


@lru_cache(maxsize=_REMEMBERED_TITLES)
def _plain(title: str) -> tuple[str, ...]:
    return tuple(word for word in _WORD.findall(title.lower()) if word not in _NO_NOUNS)


def _load(model: str) -> Callable[[str], Any]:
    try:
        spacy = importlib.import_module("spacy")
    except ImportError as error:
        raise ImportError(f"SpacyNouns needs spaCy ({error}): pip install spacy, or take PlainNouns") from error
    try:
        tagger: Callable[[str], Any] = spacy.load(model)
    except OSError as error:
        raise ValueError(
            f"model must be one that spaCy finds, got {model!r} ({error}): python -m spacy download {model}, or take "
            "PlainNouns"
        ) from error
    return tagger
