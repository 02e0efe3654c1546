"""Every shipped prompt says truly whether it needs the model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gigpo_lightning.prompts.base import TurnView, WritesChats, check_chat_template
from gigpo_lightning.prompts.text import TextPrompt
from modules.tokenizer import TransformersTokenizer
from tests.prompts.chat_tokenizer import STRIPPING, chat_tokenizer
from tests.prompts.every_prompt import KINDS

VIEW = TurnView(instruction="go to row 1", observation="you are at row 2 .", admissible_actions=("up", "left"))
CHATS = [kind for kind in KINDS if getattr(kind, "writes_chats", False)]


class Recorder(TransformersTokenizer):
    """A tokenizer that remembers whether a chat was written, and with which keywords."""

    def __init__(self) -> None:
        super().__init__(chat_tokenizer(STRIPPING).tokenizer)
        self.chats: list[dict[str, Any]] = []

    def write_chat(self, messages: Sequence[Mapping[str, Any]], /, **chat_template_kwargs: Any) -> str:
        self.chats.append(chat_template_kwargs)
        return super().write_chat(messages, **chat_template_kwargs)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_prompt_that_writes_chats_says_so_and_no_other(kind: Any) -> None:
    prompt, tokenizer = kind(), Recorder()
    prompt.encode(VIEW, tokenizer, 2000)
    assert (isinstance(prompt, WritesChats) and prompt.writes_chats) == (len(tokenizer.chats) > 0)


def test_there_are_prompts_of_both_kinds() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {"ChatPrompt", "TextPrompt", "CompactSearchQAPrompt", "SearchQAToolPrompt"} < names


@pytest.mark.parametrize("kind", CHATS, ids=lambda kind: kind.__name__)
def test_every_prompt_through_a_template_passes_keywords_on(kind: Any) -> None:
    prompt, tokenizer = kind(chat_template_kwargs={"enable_thinking": False}), Recorder()
    ids = prompt.encode(VIEW, tokenizer, 2000).ids
    assert tokenizer.chats[-1]["enable_thinking"] is False
    assert tokenizer.exact_text(ids).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "add_generation_prompt", "tokenize", "chat_template"])
def test_a_keyword_that_the_template_does_not_read_is_refused_before_training(name: str) -> None:
    prompt = TextPrompt(chat_template_kwargs={name: False})
    with pytest.raises(
        ValueError, match=rf"names that the chat template of .* reads \(enable_thinking, tools\), got '{name}'"
    ):
        check_chat_template(prompt, chat_tokenizer(STRIPPING))
