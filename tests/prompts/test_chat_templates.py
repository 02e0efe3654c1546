"""Every shipped prompt says truly whether it needs the model's chat template."""

import inspect
from typing import Any

import pytest

from gigpo_lightning.prompts import alfworld, conversation, gridworld, search_qa, text, webshop
from gigpo_lightning.prompts.base import Prompt, TurnView, WritesChats

CLASSES = sorted(
    {
        kind
        for module in (alfworld, conversation, gridworld, search_qa, text, webshop)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and issubclass(kind, Prompt)
    },
    key=lambda kind: kind.__name__,
)
VIEW = TurnView(instruction="go to row 1", observation="you are at row 2 .", admissible_actions=("up", "left"))


class Recorder:
    """A tokenizer that remembers whether a chat was written."""

    stop_token_ids = (0,)
    chats = 0

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())

    def as_text(self, text: str, markers: Any = ()) -> str:
        return text

    def encode_chat(self, messages: Any, **_: Any) -> list[int]:
        self.chats += 1
        return [1]

    def decode(self, ids: Any) -> str:
        return ""


@pytest.mark.parametrize("kind", CLASSES)
def test_a_prompt_that_writes_chats_says_so_and_no_other(kind: type):
    prompt, tokenizer = kind(), Recorder()
    prompt.encode(VIEW, tokenizer, 1000)
    assert (isinstance(prompt, WritesChats) and prompt.writes_chats) == (tokenizer.chats > 0)


def test_there_are_prompts_of_both_kinds():
    assert {"TextPrompt", "CompactSearchQAPrompt"} < {kind.__name__ for kind in CLASSES}
