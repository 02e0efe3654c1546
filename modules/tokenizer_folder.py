"""A tokenizer's files, of which ``AutoTokenizer`` makes the tokenizer that was written."""

import json
import logging
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_logger = logging.getLogger(__name__)

_CONFIG = "tokenizer_config.json"
_FILE = "tokenizer_file.py"
_MARKS: dict[str, Any] = {
    "tokenizer_class": "TokenizersBackend",
    "auto_map": {"AutoTokenizer": [None, "tokenizer_file.TokenizerFile"]},
}
_CODE = '''"""Reads tokenizer.json as it is; AutoTokenizer would put the rules of the model's family in its place."""

from transformers import PreTrainedTokenizerFast


class TokenizerFile(PreTrainedTokenizerFast):
    """The tokenizer in tokenizer.json; with and without trust_remote_code the tokens are the same."""
'''


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a tokenizer, and prove that ``AutoTokenizer`` loads the same one.

    The ``config.json`` of its model has to be there first. For some architectures ``AutoTokenizer`` goes by it: a
    Qwen2 with any other tokenizer gets Qwen's rules on the wrong vocabulary, without a word. Such a folder says in
    addition that the tokenizer has code of its own, which makes ``AutoTokenizer`` read ``tokenizer.json`` as it is,
    whether it may run that code or not. A warning says how to load the folder if that does not help.
    """
    folder = Path(folder)
    tokenizer.save_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not type(tokenizer).__module__.startswith("transformers."):
        return  # made by code that comes with the checkpoint
    config = json.loads((folder / _CONFIG).read_text())
    marked = config.get("auto_map") == _MARKS["auto_map"]
    if not marked and not _is_loaded(tokenizer, folder):
        (folder / _CONFIG).write_text(json.dumps(config | _MARKS, indent=2, sort_keys=True) + "\n")
        marked = True
    if marked:
        (folder / _FILE).write_text(_CODE)
        if not _is_loaded(tokenizer, folder):
            _logger.warning(
                "AutoTokenizer makes other tokens of this folder than its policy knows: load its tokenizer with "
                "transformers.PreTrainedTokenizerFast.from_pretrained"
            )


def _is_loaded(tokenizer: PreTrainedTokenizerFast, folder: Path) -> bool:
    """Whether ``AutoTokenizer`` makes the same tokenizer of a folder."""
    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError):
        return False
    return _rules(loaded) == _rules(tokenizer)


def _rules(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """All that decides about tokens."""
    backend = cast("Any", getattr(tokenizer, "backend_tokenizer", None))
    text = None if backend is None else backend.to_str()
    return [text, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.chat_template]
