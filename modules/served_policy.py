"""What stands in a policy's place where a model on a server plays: no weights, and a tokenizer that keeps messages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from gigpo_lightning.prompts.message_tokens import BYTES, CHAT_TEMPLATE, END, MARKS, VOCABULARY_SIZE
from gigpo_lightning.prompts.replies import Reply, without_thought
from gigpo_lightning.prompts.tool_calls import HermesToolCalls, MalformedCallError
from modules.policy import Policy
from modules.tokenizer import TransformersTokenizer


class ServedPolicy:
    """Stands in the policy's place for a run that is played by a model on a server, and trains nothing.

    For ``gigpo test``, ``validate`` and ``predict`` with ``gigpo_lightning.engines.chat_server.ChatServerEngine``: the
    server has the model and its tokenizer. Nothing is loaded. A token of this policy is a byte of UTF-8, so that all
    figures in tokens are in bytes.
    """

    def build(self) -> Policy:
        """Make the policy."""
        config = Qwen2Config(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=4,
            intermediate_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
        return _WithoutWeights(Qwen2ForCausalLM(config), ServedTokenizer(message_tokenizer()))

    def skeleton(self) -> Policy:
        """Refuse to be trained.

        Raises:
            ValueError: Always.
        """
        raise ValueError("modules.ServedPolicy has no weights to train; name the policy that is to be trained")


class ServedTokenizer(TransformersTokenizer):
    """Keeps messages as they are; of replies it reads the calls, which an engine writes as Hermes models do."""

    def is_unknown(self, word: str) -> bool:
        """Every marker is: a model on a server was not made for the compact prompts of tiny policies."""
        return True

    def check_replies(self) -> None:
        """The server has read the reply."""

    def read_reply(
        self, ids: Sequence[int], prompt_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        """A reply as a message; None if a call in it cannot be read."""
        text = self.decode(ids)
        try:
            calls = HermesToolCalls().read(Reply(text=text, exact=text))
        except MalformedCallError:
            return None
        said = without_thought(text).partition("<tool_call>")[0].strip()
        entries = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        return {"role": "assistant", "content": said, "tool_calls": entries}


class _WithoutWeights(Policy):
    """Has the few numbers that a Trainer wants to see, and hands them to no engine."""

    def save_architecture(self, folder: str | Path) -> None:
        """Refuse to be played by an engine that needs weights.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "engine must be one that asks a server, such as gigpo_lightning.engines.chat_server.ChatServerEngine, for "
            "the policy modules.ServedPolicy, which has no weights"
        )


def message_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are bytes and the marks of ``message_tokens``."""
    backend = Backend(BPE({f"<0x{number:02X}>": number for number in range(BYTES)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
