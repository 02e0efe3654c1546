"""Fitting a prompt into a number of tokens, the same way for all templates."""

import re
from collections.abc import Callable

from gigpo_lightning.prompts.base import EncodedPrompt, NoRoomError

_WORD_START = re.compile(r"\S+")


def fit_prompt(
    write: Callable[[int, str], list[int]], num_turns: int, observation: str, max_tokens: int
) -> EncodedPrompt:
    """Leave out the oldest turns first, then the observation's beginning, until the prompt fits.

    Args:
        write: Gives the token ids of the prompt with so many earlier turns and this observation.
        num_turns: Earlier turns to show if there is room.
        observation: To be shown whole if there is room.
        max_tokens: Longest prompt.

    Raises:
        NoRoomError: If the prompt is longer than ``max_tokens`` without any turn or observation.
    """
    for turns in range(num_turns, -1, -1):
        ids = write(turns, observation)
        if len(ids) <= max_tokens:
            return EncodedPrompt(ids=tuple(ids), truncated=turns < num_turns)
    starts = [word.start() for word in _WORD_START.finditer(observation)] + [len(observation)]
    fits, too_long = len(starts) - 1, 0  # numbers of words left out
    ids = write(0, "")
    if len(ids) > max_tokens:
        raise NoRoomError(f"max_tokens must be >= {len(ids)}, which this prompt needs at the least, got {max_tokens}")
    while fits - too_long > 1:
        middle = (fits + too_long) // 2
        shorter = write(0, observation[starts[middle] :])
        if len(shorter) <= max_tokens:
            fits, ids = middle, shorter
        else:
            too_long = middle
    return EncodedPrompt(ids=tuple(ids), truncated=True)
