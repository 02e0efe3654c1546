"""The names that a chat template reads, so that a misspelt one is not passed in vain."""

from collections.abc import Collection
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, meta

_OWN = frozenset(("messages", "add_generation_prompt", "continue_final_message"))
_NOT_THE_TEMPLATE_S = frozenset(
    ("conversation", "chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors")
) | frozenset(("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"))
_FUNCTIONS = frozenset(("raise_exception", "strftime_now"))


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str] | None:
    """The names that a template reads; None of a template in a dialect that only Transformers reads."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(template)))
    except TemplateSyntaxError:
        return None


def check_variables(template: str, names: Collection[str], owner: str) -> None:
    """Refuse names that a chat template does not read, or that are not the user's to choose.

    Args:
        template: The template's text.
        names: Names beside the messages.
        owner: Whose template it is, for the message.

    Raises:
        ValueError: At the first such name; tools are a prompt's, and have a message of their own.
    """
    read = _variables(template)
    if "tools" in names and read is not None and "tools" not in read:
        raise ValueError(f"the chat template of {owner} must take tools for a prompt of tool calls, but reads none")
    for name in names:
        if name in _OWN or name in _NOT_THE_TEMPLATE_S or (read is not None and name not in read):
            known = ", ".join(sorted((read or frozenset()) - _OWN - _FUNCTIONS))
            raise ValueError(
                f"chat_template_kwargs must be names that the chat template of {owner} reads"
                f"{f' ({known})' if known else ''}, got {name!r}"
            )
