"""Keeps special tokens apart from text that only looks like them: a page with ``<|im_end|>`` in it closes no turn."""

import json
import re
from collections.abc import Collection, Iterable
from typing import Any, cast

from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerBase

from gigpo_lightning.text import TEXT_MARK

_SECRET = "\ufdd0"  # a noncharacter: no text has it once ``encode_marked`` has taken it out


class SpecialTokens:
    """The special tokens of a tokenizer: where a text has them, and how to encode a text that must not.

    Special are the tokens that the tokenizer calls so, and the other added tokens that its chat template writes, such
    as ``</tool_response>``.

    Args:
        tokenizer: A Transformers tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = cast("dict[int, Any]", tokenizer.added_tokens_decoder)
        template, own = str(tokenizer.chat_template or ""), set(tokenizer.all_special_tokens)
        self._added = {token.content: number for number, token in added.items() if token.content}
        self._is_word = {token.content: bool(token.single_word) for token in added.values()}
        self._special = frozenset(
            token.content
            for token in added.values()
            if token.content.strip() and (token.special or token.content in own or token.content in template)
        )
        self.ids = frozenset(self._added[content] for content in self._special)
        self._patterns: dict[tuple[str, ...], re.Pattern[str]] = {}
        self._find_added = _either(self._added, self._is_word)
        self._backend: Backend | None = None
        self._copied = self._whole_words = False

    def as_text(self, text: str, markers: Collection[str] = ()) -> str:
        """Put a mark into every special token and marker of a text; ``encode_marked`` takes the marks out again."""
        key = tuple(markers)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._patterns[key] = _either(self._special | set(markers), {})
        while pattern.search(text):  # a broken token may have hidden another that overlaps it
            text = pattern.sub(lambda found: found[0][0] + TEXT_MARK + found[0][1:], text)
        return text

    def encode_marked(self, text: str) -> list[int]:
        """Token ids of a text with marks: what they break is encoded as any other text, the rest as ever.

        The tokenizer's own rules do all of it: in a copy of it every special token has a secret name, which is written
        where the text has the token without a mark. A vocabulary of whole words has no pieces to spell a marked word
        with; the word is unknown.
        """
        backend = self._secret_backend()
        if backend is None:
            return self._encode_without_copy(text)
        text = text.replace(_SECRET, "")
        renamed = self._find_added.sub(lambda found: _SECRET + found[0], text).replace(TEXT_MARK, "")
        return backend.encode(renamed, add_special_tokens=False).ids

    def _secret_backend(self) -> Backend | None:
        """The tokenizer with secret names; None if it has no rules that could be copied, or no pieces of words."""
        if not self._copied:
            self._copied = True
            original = cast("Any", getattr(self._tokenizer, "backend_tokenizer", None))
            rules = None if original is None else json.loads(original.to_str())
            self._whole_words = rules is not None and rules["model"].get("type") == "WordLevel"
            if rules is not None and not self._whole_words:
                made = _renamed(rules, self._added)
                if all(made.token_to_id(_SECRET + content) == number for content, number in self._added.items()):
                    self._backend = made
        return self._backend

    def _encode_without_copy(self, text: str) -> list[int]:
        """Token ids by vocabularies of whole words, and piece by piece by tokenizers that are written in Python."""
        encode = cast("Any", self._tokenizer).encode
        if self._whole_words:
            return cast("list[int]", encode(text, add_special_tokens=False))
        ids: list[int] = []
        for piece in re.split(f"({self._find_added.pattern})", text):
            if piece in self._added:
                ids.append(self._added[piece])
            else:
                for part in filter(None, piece.split(TEXT_MARK)):  # no part has a whole special token
                    ids += encode(part, add_special_tokens=False)
        return ids


def _either(contents: Iterable[str], is_word: dict[str, bool]) -> re.Pattern[str]:
    """Finds any of some texts, the longest where several begin."""

    def one(content: str) -> str:
        pattern = re.escape(content)
        if len(content) == 1:
            pattern += f"(?!{TEXT_MARK})"  # there is no place for a mark inside
        return rf"(?<!\w){pattern}(?!\w)" if is_word.get(content) else pattern

    ordered = sorted(set(contents), key=lambda content: (-len(content), content))
    return re.compile("|".join(map(one, ordered)) or r"(?!)")


def _renamed(rules: dict[str, Any], added: Collection[str]) -> Backend:
    """A tokenizer of the same rules in which added tokens have secret names."""

    def name(content: str) -> str:
        return _SECRET + content if content in added else content

    model = rules["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {name(content): number for content, number in model["vocab"].items()}
    else:
        model["vocab"] = [[name(content), score] for content, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = name(model["unk_token"])
    for token in rules["added_tokens"]:
        token |= {"content": name(token["content"]), "normalized": False}
    rules |= {"post_processor": None, "decoder": None, "truncation": None, "padding": None}
    return Backend.from_str(json.dumps(rules))
