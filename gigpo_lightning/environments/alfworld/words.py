"""Every word of the games, for tokenizers with one token a word."""

import re
from functools import cache

_SENTENCES = """
    you are in the middle of a room looking quickly around you see and your task is to nothing happens
    arrive at on open close closed turn off pick up from move put carrying not facing next it an
    this normal hot cool cold clean sliced slice heat some find two them look under examine with there s special about
    inventory help use go take into using of
"""
_HIGHEST_NUMBER = 60


@cache
def alfworld_words() -> tuple[str, ...]:
    """Lower-case words and numbers of instructions, observations and commands, sorted; no punctuation.

    Object and receptacle classes are those of alfworld's tables, so that held-out games bring no new word.

    Raises:
        ImportError: If the extra ``alfworld`` is not installed.
    """
    from gigpo_lightning.environments.alfworld.engine import import_engine

    import_engine()
    from alfworld.gen import constants

    classes = {name.lower() for name in (*constants.OBJECTS_WSLICED, *constants.VAL_RECEPTACLE_OBJECTS)}
    numbers = {str(number) for number in range(1, _HIGHEST_NUMBER + 1)}
    return tuple(sorted(set(re.findall(r"[a-z]+", _SENTENCES)) | classes | numbers))
