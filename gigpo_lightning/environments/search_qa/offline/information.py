"""How passages are told to the policy: the two forms that published agents were trained on."""

import json
from collections.abc import Sequence
from typing import Literal, get_args

from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.messages import join_contents

InformationFormat = Literal["verl_agent", "search_r1"]
FORMATS: tuple[str, ...] = get_args(InformationFormat)

NOTHING_FOUND = "No passage was found."
SEARCH_FAILED = "The search failed."


def write_information(passages: Sequence[Passage], information_format: str, max_characters: int) -> str:
    """Write passages as an observation.

    Args:
        passages: Best first; without any, the observation says so.
        information_format: ``verl_agent`` puts them into JSON, so that newlines, quotes and letters beyond ASCII are
            escaped; ``search_r1`` into plain text.
        max_characters: Longest text of a passage, and longest title; what is longer loses its end.
    """
    write = _verl_agent_passage if information_format == "verl_agent" else _search_r1_passage
    lines = []
    for number, each in enumerate(passages, start=1):
        title, text = _shortened(each.title, max_characters), _shortened(each.text, max_characters)
        lines.append(write(number, title, text))
    return enclose("\n".join(lines) if lines else NOTHING_FOUND, information_format)


def enclose(text: str, information_format: str) -> str:
    """Put a result between the information tags."""
    if information_format == "verl_agent":
        text = json.dumps({"result": text})
    return f"<information>{text.strip()}</information>"


def _verl_agent_passage(number: int, title: str, text: str) -> str:
    return f"Doc {number}: {join_contents(title, text)}".rstrip()


def _search_r1_passage(number: int, title: str, text: str) -> str:
    if not title:  # the reference code takes a document's first line for its title
        return f"Doc {number}(Title: {text})"
    return f'Doc {number}(Title: "{title}") {text}'.rstrip()


def _shortened(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[:max_characters] + " …"
