"""What the shop searches of a product, read from the official file by a few plain lines."""

from typing import Any


def shop_text(product: dict[str, Any]) -> str:
    """Title, description, first bullet and options of an entry of the official file, in lower case."""
    bullets = product["small_description"]
    first = (bullets[0] if bullets else "") if isinstance(bullets, list) else bullets
    options = [
        f"{name.lower()}: {', '.join(value['value'].strip().replace('/', ' | ').lower() for value in values)}"
        for name, values in (product["customization_options"] or {}).items()
        if values is not None
    ]
    return " ".join([product["name"], product["full_description"], first, ", and ".join(options)]).lower()
