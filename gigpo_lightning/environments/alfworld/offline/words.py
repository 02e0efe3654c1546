"""Every word of the games, for tokenizers with one token a word."""

import re
from functools import cache

from gigpo_lightning.environments.alfworld.offline.floor_plans import alfworld_text, goal_library, tables
from gigpo_lightning.environments.alfworld.task_types import KINDS

_HIGHEST_NUMBER = 60  # one floor plan has 28 receptacles of one class
_HARD_CODED = ("nothing happens", "a")  # by the engine: its answer to senseless commands, and its article
_TEXT = re.compile(r'(?:"rhs"|template ::)\s*:?\s*"((?:[^"\\]|\\.)*)"')
_NOT_TEXT = re.compile(r"\{[^{}]*\}|#[^#]*#|\\n|UNKNOWN GOAL")
_UNUSED = re.compile(r"\w+:|TODO")  # of commands that the domain does not have


@cache
def alfworld_words() -> tuple[str, ...]:
    """Lower-case words and numbers of instructions, observations and commands, sorted; no punctuation.

    Read from the wheel's grammar, goal sentences and tables of classes, so that held-out games bring no new word.

    Raises:
        ImportError: If the extra ``alfworld`` is not installed.
    """
    texts = [_NOT_TEXT.sub(" ", text) for text in _TEXT.findall(alfworld_text("data/alfred.twl2"))]
    texts = [text for text in texts if not _UNUSED.match(text)]
    texts += [template for kind in KINDS for template in goal_library()[kind]["templates"]]
    texts += _HARD_CODED
    words = {word for text in texts for word in re.findall(r"[a-z]+", _NOT_TEXT.sub(" ", text).lower())}
    words |= {name.lower() for name in tables().classes}
    words |= {str(number) for number in range(_HIGHEST_NUMBER + 1)}
    return tuple(sorted(words))
