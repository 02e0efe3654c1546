"""Every shipped prompt with turns to write, and the digests of the tokens that it made of them."""

import hashlib
import inspect
from collections.abc import Iterator

from gigpo_lightning.prompts import alfworld, chat, conversation, gridworld, search_qa, search_qa_tools, text, webshop
from gigpo_lightning.prompts.base import Prompt, Tokenizer, Turn, TurnView

MODULES = (alfworld, chat, conversation, gridworld, search_qa, search_qa_tools, text, webshop)
KINDS = sorted(
    {
        kind
        for module in MODULES
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and issubclass(kind, Prompt)
    },
    key=lambda kind: kind.__name__,
)
SAID = (
    "-= Welcome to TextWorld, ALFRED! =- You are in the middle of a room. You see a cabinet 1, and a fridge 1.",
    "You open the fridge 1.\n\nIt's open: you see a mug 2  and “tea” for 12.50 $ <b>new</b>.",
    "Nothing happens.",
)
OFFERED = ("go to cabinet 1", "take mug 2 from fridge 1", "click[buy now]", "look")


def views() -> Iterator[TurnView]:
    """The turns of an episode, without any special token in them."""
    turns = tuple(
        Turn(
            observation=said,
            action=done,
            response=done,
            prompt_ids=(5, 6, 7, number),
            completion_ids=(8, number),
        )
        for number, (said, done) in enumerate(zip(SAID, OFFERED, strict=False))
    )
    for number, said in enumerate(SAID):
        yield TurnView(
            instruction="put a clean mug on the desk, for less than 30.00 dollars",
            observation=said,
            admissible_actions=OFFERED if number else None,
            turns=turns[:number],
        )


def digest(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """Digest of the tokens of all turns, with much room and with little."""
    ids = [list(prompt.encode(view, tokenizer, room).ids) for view in views() for room in (2000, 260)]
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
