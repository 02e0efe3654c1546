"""Text that fits where it is shown: in one line, of a bounded length, in characters that a font has."""

from functools import cache

from matplotlib.font_manager import findfont, get_font

FONT = "DejaVu Sans"
"""Comes with Matplotlib, so that a figure looks the same everywhere."""


def shortened(text: str, length: int) -> str:
    """The text in one line of at most so many characters; where it was cut there is an ellipsis.

    Example:
        >>> shortened("You open  the drawer 1.", 12)
        'You open th…'
    """
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def drawable(text: str) -> str:
    """The text with a box for every character that the figures' font has not; line breaks stay."""
    known = _characters()
    return "".join(each if each == "\n" or ord(each) in known else "□" for each in text)


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
