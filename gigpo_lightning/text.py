"""Text that every tokenizer and pipe takes, and that fits into a message."""


def well_formed(text: str) -> str:
    """The text without lone surrogates, which no tokenizer or pipe would take later on."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def shown(value: object, longest: int = 200) -> str:
    """A value for a message, cut if it is long: an observation may have millions of characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
