"""Wraps a Transformers tokenizer in the core's small Tokenizer protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from gigpo_lightning.text import well_formed


class TransformersTokenizer:
    """A Transformers tokenizer, behind the little that the core needs of it.

    Args:
        tokenizer: The tokenizer of the policy's checkpoint.
        stop_token_ids: Tokens that end a reply beside the tokenizer's own end token, such as those of the
            checkpoint's generation config.

    Raises:
        ValueError: If the tokenizer has no end token, so that no reply could ever end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        end = cast("int | None", tokenizer.eos_token_id)
        if end is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} must have an eos_token, which ends a reply; it has none"
            )
        self.end_token_id = end
        self.stop_token_ids = tuple(sorted({end, *stop_token_ids}))
        """Token ids that end a reply."""
        pad = cast("int | None", tokenizer.pad_token_id)
        self.pad_token_id = end if pad is None else pad
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens added; half a surrogate pair becomes a question mark."""
        text = well_formed(text)
        backend = self._backend
        if backend is not None and backend.truncation is None and backend.padding is None:
            # The same ids in a third of the time: without offsets, and without what Transformers puts around them.
            return cast("list[int]", backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        return cast("list[int]", self.tokenizer.encode(text, add_special_tokens=False))

    def exact_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and all."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return cast("str", text)

    def is_unknown(self, word: str) -> bool:
        """Whether some part of a word has no token of its own."""
        ids = self.encode(word)
        return not ids or cast("int | None", self.tokenizer.unk_token_id) in ids

    @property
    def _name(self) -> str:
        folder = self.tokenizer.name_or_path
        return f"the tokenizer {folder!r}" if folder else "the policy's tokenizer, made of a vocabulary,"

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat through the model's own template, ready for the assistant's reply.

        Raises:
            ValueError: If the checkpoint has no chat template, or the template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{self._name} must have a chat template for this prompt, but has none. Use an instruct checkpoint, or "
                "a prompt in plain words such as gigpo_lightning.prompts.text.CompactTextPrompt"
            )
        conversation: Any = [{key: well_formed(text) for key, text in each.items()} for each in messages]
        try:
            ids = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise ValueError(
                f"the chat template of {self._name} must take a chat of the roles "
                f"{[each['role'] for each in conversation]}, but says: {error}"
            ) from error
        return [int(i) for i in cast("list[int]", ids)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast("str", text)
