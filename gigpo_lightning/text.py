"""Text that every tokenizer and pipe takes."""


def well_formed(text: str) -> str:
    """The text without lone surrogates, which no tokenizer or pipe would take later on."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
