"""A catalogue by hand in the official form."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def entry(asin: str, **fields: Any) -> dict[str, Any]:
    """A product's entry of the official product file."""
    return {
        "asin": asin,
        "name": f"Product {asin}",
        "full_description": "",
        "pricing": "$25.5",
        "small_description": ["good", "cheap"],
        "customization_options": "",
        "category": "garden",
        "query": "Chairs ",
        "product_category": "Patio › Furniture › Chairs",
        "images": ["a.jpg"],
        **fields,
    }


def choice(*values: str) -> list[dict[str, Any]]:
    """The entries of one option."""
    return [{"value": value, "image": None} for value in values]


PRODUCTS = (
    entry(
        "B000000001",
        name="Red Oak Chair",
        full_description="A chair of red oak.",
        customization_options={"Size": choice("Small", "Large"), "Color": choice("Red/White", "Blue"), "Void": None},
    ),
    entry("B000000002", name="Blue Pine Chair", pricing="$10.0$35.0", small_description="One text only"),
    entry("B000000003", name="Steel Lamp", pricing="", query="lamps", product_category="Home › Lighting › Lamps"),
    entry("B000000004", name="Brass Lamp", pricing="$995.0", query="lamps", product_category="Home › Lighting › Lamps"),
)
ATTRIBUTES = {
    "B000000001": {
        "attributes": ["solid wood", "easy clean"],
        "instruction": "Find me solid wood chairs",
        "instruction_attributes": ["solid wood"],
    },
    "B000000002": {"attributes": []},
    "B000000003": {
        "attributes": ["energy saving"],
        "instruction": "Find me energy saving lamps",
        "instruction_attributes": ["energy saving"],
    },
    "B000000004": {
        "attributes": ["energy saving"],
        "instruction": "Find me energy saving brass lamps",
        "instruction_attributes": ["energy saving"],
    },
}


def write(
    folder: Path, products: Any = PRODUCTS, attributes: Mapping[str, Any] = ATTRIBUTES, people: Any = None
) -> dict[str, Path]:
    """Write the files; returns the arguments of ``Catalogue`` that name them."""
    contents = {"products": products, "attributes": attributes} | ({} if people is None else {"human_goals": people})
    paths = {name: folder / f"{name}.json" for name in contents}
    for name, content in contents.items():
        paths[name].write_text(json.dumps(content))
    return paths
