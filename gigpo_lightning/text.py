"""Text that every tokenizer, pipe and file system takes, and that fits into a message."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

TEXT_MARK = "\U000e01ef"
"""Stands inside what looks like a special token and is text (``Tokenizer.as_text``).

The last of the variation selectors: nothing uses it, nothing shows it, and ``repr`` leaves it as it is.
"""


def well_formed(text: str) -> str:
    """The text without lone surrogates, which no tokenizer or pipe would take later on."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def shown(value: object, longest: int = 200) -> str:
    """A value for a message, cut if it is long: an observation may have millions of characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def count(number: int, noun: str) -> str:
    """A number and what it counts, which takes an s unless there is one.

    Example:
        >>> count(1, "epoch"), count(2, "epoch")
        ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """A share as prose says it.

    Example:
        >>> percent(0.25)
        '25 %'
    """
    return f"{100 * share:.0f} %"


def as_rate(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A share, or a difference of two, as every page of this project writes it: with no zero before the point.

    Args:
        value: The share, from 0 to 1.
        digits: Decimals.
        sign: Show a plus as well, as of a difference.

    Example:
        >>> as_rate(0.433), as_rate(1.0), as_rate(0.65, 2), as_rate(0.104, sign=True), as_rate(-0.0004, sign=True)
        ('.433', '1.000', '.65', '+.104', '-.000')
    """
    said = f"{value:{'+' if sign else ''}.{digits}f}"
    return said.replace("0.", ".", 1) if abs(value) < 1 and said.lstrip("+-").startswith("0.") else said


def folder_name(overrides: Mapping[str, str]) -> str:
    """The name of a run's folder: its overrides in alphabetic order, in characters that every file system takes.

    A key is its last word, unless two share it. Where something had to be left out, first the longest, eight digits of
    a hash tell the names apart.

    Example:
        >>> folder_name({"run": "alfworld/tiny_cpu", "model.init_args.credit.init_args.discount": "0.9"})
        'discount=0.9,run=alfworld-tiny_cpu'
        >>> folder_name({"data.init_args.held_out_splits": "[a, b]"})
        'held_out_splits=-a-b-,557c6c86'
    """
    short = dict(zip(overrides, short_keys(list(overrides)), strict=True))
    pairs = sorted(f"{short[key]}={value}".replace("/", "-") for key, value in overrides.items())
    said = [re.sub(r"[^\w.=+@-]+", "-", pair, flags=re.ASCII) for pair in pairs]
    while len(",".join(said)) > 140:  # leaves room for what is written beside it
        said.remove(max(said, key=len))
    if said != pairs:
        said.append(hashlib.sha256(json.dumps(dict(overrides), sort_keys=True).encode()).hexdigest()[:8])
    return ",".join(said) or "run"


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last word of each key; the whole key where two share one."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if last.count(word) > 1 else word for key, word in zip(keys, last, strict=True)]
