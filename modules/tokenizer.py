"""Wraps a Transformers tokenizer in the core's small Tokenizer protocol."""

import inspect
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from gigpo_lightning.text import TEXT_MARK, well_formed
from modules.chat_variables import check_variables
from modules.special_tokens import SpecialTokens

_logger = logging.getLogger(__name__)


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
        self._has_warned = False

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added; half a surrogate pair becomes a question mark.

        Special tokens in it are encoded as such, unless ``as_text`` has marked them as text.
        """
        text = well_formed(text)
        if TEXT_MARK in text:
            return self._special.encode_marked(text)
        backend = self._backend
        if backend is not None and backend.truncation is None and backend.padding is None:
            # The same ids in a third of the time: without offsets, and without what Transformers puts around them.
            return cast("list[int]", backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        return cast("list[int]", self.tokenizer.encode(text, add_special_tokens=False))

    def as_text(self, text: str, markers: Collection[str] = ()) -> str:
        """The text, marked so that ``encode`` takes what looks like a special token or a marker in it as plain text."""
        return self._special.as_text(text, markers)

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.tokenizer)

    def exact_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and all."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return cast("str", text)

    def written_text(self, ids: Sequence[int]) -> str:
        """Text of sampled tokens as ``encode`` reads it: a special token that they only spell is marked as text."""
        parts: list[str] = []
        for special, group in itertools.groupby(ids, self._special.ids.__contains__):
            text = self.exact_text(tuple(group))
            parts.append(text if special else self.as_text(text))
        return "".join(parts)

    @cached_property
    def _reads_with(self) -> frozenset[str]:
        """What ``parse_response`` takes: a prefix since it reads response templates, before that response schemas."""
        return frozenset(inspect.signature(cast("Any", self.tokenizer).parse_response).parameters)

    @property
    def _response_template(self) -> Any:
        return getattr(self.tokenizer, "response_template" if "prefix" in self._reads_with else "response_schema", None)

    def check_replies(self) -> None:
        """Refuse to read replies without a response template, or with one that Transformers does not take.

        Raises:
            ValueError: If it is one of the two.
        """
        template = self._response_template
        if not template:
            raise ValueError(
                f"{self._name} must have a response template to read its replies with, but has none: choose the parser "
                "of the model's form in gigpo_lightning.prompts.tool_calls"
            )
        if "prefix" not in self._reads_with:
            return
        try:
            cast("Any", self.tokenizer).parse_response("", _without_duties(template), prefix="")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"the response template of {self._name} must be a right one, but: {error}") from error

    def read_reply(
        self, ids: Sequence[int], prompt_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        """A reply as a message, by the tokenizer's own response template; None where it has none, or that fails."""
        if not self._response_template:
            return None
        context = {"prefix": self.exact_text(prompt_ids), "tools": list(tools) or None}
        kwargs = {name: value for name, value in context.items() if name in self._reads_with}
        try:
            message = cast("Any", self.tokenizer).parse_response(self.exact_text(ids), **kwargs)
        except (ValueError, RecursionError) as error:  # not of that form
            _logger.debug("a reply does not follow the tokenizer's response template: %s", error)
            return None
        except (TypeError, LookupError, AttributeError) as error:  # perhaps a placeholder that nothing fills
            if not self._has_warned:
                _logger.warning(
                    "the response template of %s may be wrong: it cannot read a reply: %s", self._name, error
                )
            self._has_warned = True
            return None
        return message if isinstance(message, Mapping) else None

    def is_unknown(self, word: str) -> bool:
        """Whether some part of a word has no token of its own."""
        ids = self.encode(word)
        return not ids or cast("int | None", self.tokenizer.unk_token_id) in ids

    @property
    def _name(self) -> str:
        folder = self.tokenizer.name_or_path
        return f"the tokenizer {folder!r}" if folder else "the policy's tokenizer, made of a vocabulary,"

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], /, **chat_template_kwargs: Any) -> list[int]:
        """Token ids of a chat through the model's own template, ready for the assistant's reply.

        Raises:
            ValueError: As ``write_chat``.
        """
        return self.encode(self.write_chat(messages, **chat_template_kwargs))

    def write_chat(self, messages: Sequence[Mapping[str, Any]], /, **chat_template_kwargs: Any) -> str:
        """Text of a chat through the model's own template, ready for the assistant's reply.

        Args:
            messages: The chat, a role and a content each.
            chat_template_kwargs: What the template takes beside them, such as ``tools``.

        Raises:
            ValueError: If the checkpoint has no chat template, or the template refuses the messages or does not take a
                keyword.
        """
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{self._name} must have a chat template for this prompt, but has none. Use an instruct checkpoint, or "
                "a prompt in plain words such as gigpo_lightning.prompts.text.CompactTextPrompt"
            )
        conversation: Any = [
            {key: well_formed(value) if isinstance(value, str) else value for key, value in each.items()}
            for each in messages
        ]
        template = self.tokenizer.get_chat_template(tools=chat_template_kwargs.get("tools"))
        check_variables(template, chat_template_kwargs.keys(), self._name)
        try:
            text = self.tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False, **chat_template_kwargs
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(
                f"the chat template of {self._name} must take a chat of the roles "
                f"{[each['role'] for each in conversation]}, but says: {error}"
            ) from error
        return cast("str", text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast("str", text)


def _without_duties(template: Any) -> Any:
    """A response template that an empty reply follows, if any does: no field must be there."""
    fields = template.get("fields") if isinstance(template, dict) else None
    if not isinstance(fields, dict):
        return template
    free = {name: {**field, "optional": True} if isinstance(field, dict) else field for name, field in fields.items()}
    return {**template, "fields": free}
