"""From an entry of the official files to a product, by the rules of the original's loader."""

import re
from collections.abc import Mapping
from typing import Any

from gigpo_lightning.environments.webshop.entities import Product

DEFAULT_PRICE = 100.0
_NO_ATTRIBUTES = ("DUMMY_ATTR",)
_NOT_A_NUMBER = re.compile(r"[^\d.]")


def make_product(entry: Mapping[str, Any], attributes: Mapping[str, Any] | None) -> Product:
    """Make a product of its entry in the product file and of that in the attribute file.

    Raises:
        ValueError: If a key is missing or of the wrong kind; the message names the product and the key.
    """
    asin = entry["asin"]
    try:
        bullets = entry["small_description"]
        prices, tag = read_pricing(entry.get("pricing"))
        return Product(
            asin=asin,
            title=_text(entry["name"]),
            description=_text(entry["full_description"]),
            bullets=tuple(map(_text, bullets if isinstance(bullets, list) else [bullets])),
            price_tag=tag,
            prices=prices,
            options=_options(entry["customization_options"]),
            attributes=_NO_ATTRIBUTES if attributes is None else tuple(attributes.get("attributes", _NO_ATTRIBUTES)),
            category=_text(entry["category"]),
            query=_text(entry["query"]).lower().strip(),
            product_category=_text(entry["product_category"]),
        )
    except KeyError as error:
        raise ValueError(f"product {asin!r} must have the key {error.args[0]!r}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"product {asin!r} must have the official form, but: {error}") from error


def is_sold(asin: Any) -> bool:
    """Whether an entry is a product at all: the official file has a few that the original skips."""
    return isinstance(asin, str) and asin != "nan" and len(asin) <= 10


def read_pricing(pricing: str | None) -> tuple[tuple[float, ...], str]:
    """The price, or the lowest and the highest, and how pages write it.

    Raises:
        ValueError: If it is no price.
    """
    if not pricing:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    prices = tuple(float(_NOT_A_NUMBER.sub("", piece)) for piece in pricing.split("$")[1:])[:2]
    if not prices:
        raise ValueError(f"pricing must have a '$' before each price, got {pricing!r}")
    return prices, " to ".join(f"${price}" for price in prices)


def _options(options: Any) -> dict[str, tuple[str, ...]]:
    """Choices by name, in the file's order."""
    return {
        name.lower(): tuple(content["value"].strip().replace("/", " | ").lower() for content in contents)
        for name, contents in (options or {}).items()
        if contents is not None
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, got {value!r}")
    return value


def searchable_text(product: Product) -> str:
    """What the original's index holds of a product: of the features the first only."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    return " ".join((product.title, product.description, *product.bullets[:1], options)).lower()
