"""A small policy with a vocabulary of words, for CPUs, tests and demonstrations."""

import re
from collections.abc import Callable, Sequence

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as WordTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from gigpo_lightning.errors import check_count, check_seed
from modules.policy import Policy
from modules.stored_weights import StoredWeights
from modules.tokenizer import TransformersTokenizer

_WIDEST = 1 << 16
PAD, UNKNOWN, END = "<pad>", "<unk>", "<end>"
_MARKER = re.compile(r"<\w+>")


class TinyPolicy:
    """A small Qwen2 with random weights and a word-level tokenizer, for CPUs, tests and demonstrations.

    Args:
        vocabulary: Functions that list the words and markers that it reads and writes.
        hidden_size: Width of the residual stream.
        num_layers: Number of decoder blocks.
        num_heads: Number of attention heads; vLLM on CPUs wants them at least 32 wide.
        intermediate_size: Width of the feed-forward layers.
        max_length: Longest prompt plus reply, in tokens.
        tie_embeddings: Whether the output layer is the input embedding.
        seed: Seed of the weights.
        chat_template: Template of chats, in Jinja, for prompts that are written through one; default: none.
        attention: Attention implementation, as Transformers names it; default: what suits the device.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        vocabulary: list[Callable[[], Sequence[str]]],
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        intermediate_size: int = 128,
        max_length: int = 512,
        tie_embeddings: bool = True,
        seed: int = 0,
        chat_template: str | None = None,
        attention: str | None = None,
    ) -> None:
        for name, size in {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
        }.items():
            check_count(name, size, 1, _WIDEST)
        check_count("max_length", max_length, 2, why="a token of the prompt, and one of the reply")
        check_seed(seed)
        if hidden_size % (2 * num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads {num_heads}, got {hidden_size}: rotary embeddings "
                "turn pairs of a head's dimensions"
            )
        self.words = tuple(dict.fromkeys(word for list_words in vocabulary for word in list_words()))
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_size = intermediate_size
        self.max_length = max_length
        self.tie_embeddings = tie_embeddings
        self.seed = seed
        self.chat_template = chat_template
        self.attention = attention

    def skeleton(self) -> Policy:
        """The policy without its weights, on the meta device."""
        with torch.device("meta"):
            return self._make()

    def unloaded(self) -> tuple[Policy, StoredWeights]:
        """The policy on the meta device, and its weights, which are few."""
        return self.skeleton(), iter(self.build().model.state_dict().items())

    def build(self) -> Policy:
        """Make the model and its tokenizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._make()

    def _make(self) -> Policy:
        tokenizer = word_tokenizer(self.words, self.chat_template)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_length,
            tie_word_embeddings=self.tie_embeddings,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        model = Qwen2ForCausalLM._from_config(config, attn_implementation=self.attention)
        return Policy(model, TransformersTokenizer(tokenizer), self.attention)


def word_tokenizer(words: Sequence[str], chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token a word, split at white space, so that commands decode exactly.

    Words in angle brackets that the chat template writes are special tokens: nothing else can write them.
    """
    vocabulary = {word: index for index, word in enumerate((PAD, UNKNOWN, END, *words))}
    backend = WordTokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    markers = sorted(set(_MARKER.findall(chat_template or "")) & set(words))
    backend.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = chat_template
    return tokenizer
