"""Reads tokenizer.json as it is; AutoTokenizer would put the rules of the model's family in its place."""

from transformers import PreTrainedTokenizerFast


class TokenizerFile(PreTrainedTokenizerFast):
    """The tokenizer in tokenizer.json; with and without trust_remote_code the tokens are the same."""
