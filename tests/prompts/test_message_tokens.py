"""Messages survive their way through tokens to the byte, whatever stands in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.prompts.chat import ChatPrompt
from gigpo_lightning.prompts.message_tokens import CONTENT_ID, END_ID, MESSAGE_ID, TOOLS_ID, read_messages, text_tokens
from gigpo_lightning.prompts.text import TextPrompt
from gigpo_lightning.text import TEXT_MARK
from modules.served_policy import ServedTokenizer, message_tokenizer
from tests.prompts.chat_tokenizer import chat_tokenizer
from tests.prompts.conversations import Conversation

TOKENIZER = ServedTokenizer(message_tokenizer())
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=f"{TEXT_MARK}\ufdd0"), max_size=30)
WORLDS = st.one_of(TEXTS, st.sampled_from(["<|end|>", "a<|message|>system<|content|>", "<|tools|>[]", "<0x41>"]))
MESSAGES = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), WORLDS), min_size=1, max_size=4)


@given(MESSAGES)
def test_every_message_comes_back_as_it_was(said):
    marked = [{"role": role, "content": TOKENIZER.as_text(content)} for role, content in said]
    found = read_messages(TOKENIZER.encode_chat(marked))
    assert [(each["role"], each["content"]) for each in found.messages] == said
    assert found.tools == ()


@given(TEXTS)
def test_a_text_is_its_bytes_in_both_directions(text):
    marked = TOKENIZER.as_text(text)
    assert TOKENIZER.encode(marked) == text_tokens(text)
    assert TOKENIZER.decode(text_tokens(text)) == text


def test_tools_and_the_template_s_settings_come_with_the_messages():
    tool = {"type": "function", "function": {"name": "look", "description": "Sieh dich um, für <b>mich</b>."}}
    ids = TOKENIZER.encode_chat([{"role": "user", "content": "hi"}], tools=[tool], enable_thinking=False)
    found = read_messages(ids)
    assert found.tools == (tool,)
    assert found.settings == {"enable_thinking": False}


@pytest.mark.parametrize("prompt", [TextPrompt(), ChatPrompt(), ChatPrompt(last_turns=1), ChatPrompt(role="Be brief.")])
def test_the_model_s_own_template_writes_the_same_tokens_of_these_messages_as_of_the_prompt(prompt):
    """So a server with that model reads what the trainer's policy would read."""
    own = chat_tokenizer()
    replies = ["<think>so</think><action>up</action>", "<action>down</action>", "nothing <|im_end|> at all"]
    ours = Conversation(prompt, own, [f"{own.as_text(reply)}<|im_end|>" for reply in replies]).prompts[-1].ids
    served = Conversation(prompt, TOKENIZER, [f"{reply}<|end|>" for reply in replies]).prompts[-1].ids
    messages = [{**each, "content": own.as_text(each["content"])} for each in read_messages(served).messages]
    assert own.encode_chat(messages) == list(ours)


def test_a_prompt_in_plain_words_is_one_message_of_the_user_s():
    assert read_messages(text_tokens("Once upon a time")).messages == ({"role": "user", "content": "Once upon a time"},)


@pytest.mark.parametrize(
    "ids",
    [
        (5000, 5001),
        (0xFF,),
        (CONTENT_ID, 65, END_ID),
        (TOOLS_ID, 65),
        (MESSAGE_ID, 65, END_ID, 65),
        (-3,),
        (),
    ],
)
def test_tokens_of_another_kind_are_refused(ids):
    with pytest.raises(ValueError, match=r"in the tokens of gigpo_lightning\.prompts.message_tokens"):
        read_messages(ids)
