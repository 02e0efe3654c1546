"""What ``AutoTokenizer`` makes of a folder of ours is the tokenizer that was written."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2Tokenizer, dynamic_module_utils

from gigpo_lightning.environments.gridworld import GridworldEnvironment, gridworld_panel, gridworld_words
from gigpo_lightning.prompts.alfworld import CompactAlfworldPrompt
from gigpo_lightning.prompts.base import TurnView
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.prompts.search_qa import CompactSearchQAPrompt
from gigpo_lightning.prompts.webshop import CompactWebShopPrompt
from modules import PretrainedPolicy, tokenizer_folder
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer
from modules.tokenizer_folder import save_tokenizer
from tests.conftest import ROOT
from tests.modules.test_shipped_policy import BEDROOM, KITCHEN
from tests.modules.test_shipped_search_policy import FIRST as QUESTION
from tests.modules.test_shipped_search_policy import LAST as ANSWER
from tests.prompts.shop_pages import CHOSEN, FIRST, FOUND

SHIPPED = ("alfworld", "search_qa", "webshop")
PROMPTS = {
    "alfworld": (CompactAlfworldPrompt(), [BEDROOM, KITCHEN]),
    "search_qa": (CompactSearchQAPrompt(), [QUESTION, ANSWER]),
    "webshop": (CompactWebShopPrompt(), [FIRST, FOUND, CHOSEN]),
}


class Recording(TransformersTokenizer):
    """Remembers every text that it encodes."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.texts = []

    def encode(self, text):
        self.texts.append(text)
        return super().encode(text)


def written(tokenizer, folder):
    """A Qwen2's folder, but for its weights."""
    Qwen2Config(num_hidden_layers=1).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def byte_level(kind, **options):
    """A small tokenizer of pairs of bytes."""
    vocabulary = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary |= {pair: len(vocabulary) + index for index, pair in enumerate(("he", "ll", "hell"))}
    merges = [("h", "e"), ("l", "l"), ("he", "ll")]
    if kind is Qwen2Tokenizer:
        return Qwen2Tokenizer(vocab=vocabulary, merges=merges, **options)
    backend = Backend(BPE(vocabulary, merges))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", **options)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Our tokenizer of the gridworld's words, and what ``AutoTokenizer`` makes of its folder."""
    ours = word_tokenizer([*gridworld_words(), *gridworld_markers()])
    folder = written(ours, tmp_path_factory.mktemp("words"))
    return TransformersTokenizer(ours), AutoTokenizer.from_pretrained(folder)


@given(st.lists(st.one_of(st.sampled_from([*gridworld_words(), "<end>", "<act>", "\n", "\u3000"]), st.text())))
def test_any_text_has_the_same_tokens(words, parts):
    ours, loaded = words
    text = " ".join(parts).encode(errors="replace").decode()
    assert loaded(text).input_ids == ours.encode(text)


def test_the_gridworld_s_prompts_have_the_same_tokens(words):
    ours, loaded = Recording(words[0].tokenizer), words[1]
    environment = GridworldEnvironment()
    for task in gridworld_panel("train").tasks[:20]:
        observation, _ = environment.reset(options={"task": task})
        view = TurnView(instruction="", observation=observation, admissible_actions=None, history=())
        ids = GridworldPrompt().encode(view, ours, 60).ids
        assert loaded(ours.exact_text(ids)).input_ids == list(ids)
    assert all(loaded(text).input_ids == words[0].encode(text) for text in ours.texts)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_prompts_of_a_shipped_policy_have_the_same_tokens(name):
    folder = ROOT / "configs" / name / "tiny_policy"
    ours = Recording(PretrainedPolicy(str(folder)).skeleton().tokenizer.tokenizer)
    loaded = AutoTokenizer.from_pretrained(folder)
    prompt, views = PROMPTS[name]
    for view in views:
        ids = prompt.encode(view, ours, 200).ids
        assert loaded(ours.exact_text(ids)).input_ids == list(ids)
    assert ours.texts
    assert all(loaded(text).input_ids == TransformersTokenizer.encode(ours, text) for text in list(ours.texts))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_folder_has_what_would_be_written_today(name, tmp_path):
    folder = ROOT / "configs" / name / "tiny_policy"
    written(PretrainedPolicy(str(folder)).skeleton().tokenizer.tokenizer, tmp_path)
    mine, theirs = (json.loads((each / "tokenizer_config.json").read_text()) for each in (tmp_path, folder))
    assert mine.items() >= theirs.items()
    assert (tmp_path / "tokenizer_file.py").read_text() == (folder / "tokenizer_file.py").read_text()


def test_the_folder_s_own_code_gives_the_same_tokens_where_it_is_trusted(words, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = written(words[0].tokenizer, tmp_path / "policy")
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert loaded("you goal xyz <act>").input_ids == words[0].encode("you goal xyz <act>")


def test_a_qwen_s_tokenizer_is_written_as_transformers_does_and_is_the_same(tmp_path):
    ours = byte_level(Qwen2Tokenizer, chat_template="{{ messages }}")
    loaded = AutoTokenizer.from_pretrained(written(ours, tmp_path))
    assert "tokenizer_file.py" not in {path.name for path in tmp_path.iterdir()}
    assert loaded.backend_tokenizer.to_str() == ours.backend_tokenizer.to_str()
    assert loaded.chat_template == ours.chat_template
    assert loaded.all_special_ids == ours.all_special_ids


def test_another_family_s_tokenizer_is_the_same_too(tmp_path):
    ours = byte_level(PreTrainedTokenizerFast)
    loaded = AutoTokenizer.from_pretrained(written(ours, tmp_path))
    assert loaded.backend_tokenizer.to_str() == ours.backend_tokenizer.to_str()
    assert loaded("hello <end>").input_ids == ours("hello <end>").input_ids


def test_what_is_loaded_and_written_again_is_the_same(words, tmp_path):
    first = written(words[0].tokenizer, tmp_path / "first")
    second = written(PreTrainedTokenizerFast.from_pretrained(first), tmp_path / "second")
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    assert AutoTokenizer.from_pretrained(second)("you goal").input_ids == words[0].encode("you goal")


def test_a_folder_that_loads_otherwise_is_warned_of(words, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        tokenizer_folder, "_MARKS", {"auto_map": {}}
    )  # a release of Transformers that they tell nothing
    with caplog.at_level(logging.WARNING):
        written(words[0].tokenizer, tmp_path)
    assert "load its tokenizer with transformers.PreTrainedTokenizerFast.from_pretrained" in caplog.text
