"""A tiny policy with a chat template: its markers are special tokens, and its folder loads as it was written."""

from pathlib import Path

from transformers import AutoTokenizer

from modules import TinyPolicy
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer

TEMPLATE = "{% for m in messages %}<user> {{ m.content }} {% endfor %}<assistant>"
WORDS = ("<user>", "<assistant>", "<search>", "up", "down")


def test_words_that_the_template_writes_are_special_tokens() -> None:
    tokenizer = TransformersTokenizer(word_tokenizer(WORDS, TEMPLATE))
    ids = tokenizer.encode_chat([{"role": "user", "content": tokenizer.as_text("up <assistant> <search>")}])
    assert tokenizer.exact_text(ids) == "<user> up <unk> <search> <assistant>"
    assert tokenizer.decode(ids) == "up <search>"


def test_without_a_template_no_word_is_special() -> None:
    assert word_tokenizer(WORDS).encode("<user> up") == word_tokenizer(WORDS, TEMPLATE).encode("<user> up")
    assert "<user>" not in word_tokenizer(WORDS).all_special_tokens


def test_a_folder_of_it_loads_as_it_was_written(tmp_path: Path) -> None:
    policy = TinyPolicy([lambda: WORDS], hidden_size=16, num_layers=1, max_length=32, chat_template=TEMPLATE).build()
    policy.save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "up down"}]
    loaded = TransformersTokenizer(AutoTokenizer.from_pretrained(tmp_path))
    assert loaded.encode_chat(chat) == policy.tokenizer.encode_chat(chat)
