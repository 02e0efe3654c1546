"""Catalogues made offline in the form of the official files, from a small invented world."""

import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from gigpo_lightning.environments.generated import make_once
from gigpo_lightning.environments.webshop.offline.wares import BRANDS, DEPARTMENTS, PATH_MARK, Attribute, Department
from gigpo_lightning.errors import check_range

_logger = logging.getLogger(__name__)

PRODUCTS_FILE = "items_shuffle.json"
ATTRIBUTES_FILE = "items_ins_v2.json"

_FORMAT = 1  # counted up when the same settings would give other products
_MANIFEST = "generated.json"
_PRICE_STEP = 10  # dollars; prices end in 9.99
_NUM_ASINS = 36**8
_ASIN_STRIDE = 1_000_000_007  # a prime that does not divide it, so that ids differ
_RECENT = 64  # products among which a twin finds its elder
_SENTENCES = ("{brand} makes {kind}: {attributes}.", "Made by {brand}.", "Nothing else is like it.")
_PAGE_WORDS = (
    "webshop instruction back to search page total results prev next price rating n a description features reviews "
    "attributes buy now click"
)
_INSTRUCTION_WORDS = "find me with for and price lower than 00 dollars"
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopSettings:
    """What a generated catalogue is like. The same settings give the same files, byte for byte.

    Several products are of one kind and differ in attributes, options and price, so that a shopper must look and
    choose; twins share even their attributes.

    Attributes:
        num_products: How many products.
        seed: Where all draws come from.
        num_kinds: Kinds of product, dealt over the departments in turn; at most as many as there are.
        attributes: Each product has this many attributes or one fewer, at least one.
        values: At most so many values of an option.
        option_names: At most so many options of a product.
        plain: Share of the products without options.
        twins: Share of the products that repeat the kind and attributes of one before, with another price and options.
        price_ranges: Share of the products whose price is a range.
        highest_price: In dollars.
        hidden_attributes: Share of the products whose title leaves out an attribute, which only the features tell.
        description_words: Words of the descriptions beyond their sentence; real ones have about a hundred.

    Raises:
        ValueError: If a number is out of its range.
    """

    num_products: int = 300
    seed: int = 0
    num_kinds: int = 26
    attributes: int = 3
    values: int = 3
    option_names: int = 2
    plain: float = 0.2
    twins: float = 0.2
    price_ranges: float = 0.1
    highest_price: int = 100
    hidden_attributes: float = 0.0
    description_words: int = 0

    def __post_init__(self) -> None:
        kinds = sum(len(department.kinds) for department in DEPARTMENTS)
        ranges = {
            "num_products": (1, _NUM_ASINS),
            "seed": (0, 1 << 63),
            "num_kinds": (1, kinds),
            "attributes": (1, min(len(department.attributes) for department in DEPARTMENTS)),
            "values": (1, 100),
            "option_names": (0, 2),
            "plain": (0, 1),
            "twins": (0, 1),
            "price_ranges": (0, 1),
            "highest_price": (2 * _PRICE_STEP, 10_000),
            "hidden_attributes": (0, 1),
            "description_words": (0, 10_000),
        }
        for name, (least, most) in ranges.items():
            check_range(name, getattr(self, name), least, most)


def generate_catalogue(folder: str | Path, settings: ShopSettings) -> tuple[Path, Path]:
    """Write ``items_shuffle.json`` and ``items_ins_v2.json`` into a folder, unless they are there already.

    The folder appears when all is written, never in part; two processes may make the same one.

    Returns:
        The product file and the attribute file.

    Raises:
        ValueError: If the folder holds anything else.
    """

    def write(partial: Path) -> None:
        _logger.info("making %d products in %s", settings.num_products, folder)
        _write(partial, settings)

    make_once(Path(folder), _MANIFEST, {"format": _FORMAT, **asdict(settings)}, "a catalogue", "folder", write)
    return catalogue_files(folder)


def catalogue_files(folder: str | Path) -> tuple[Path, Path]:
    """Where the product file and the attribute file of a generated catalogue are."""
    return Path(folder) / PRODUCTS_FILE, Path(folder) / ATTRIBUTES_FILE


@cache
def webshop_words() -> tuple[str, ...]:
    """Lower-case words of generated products, their instructions and pages, sorted; no punctuation, no numbers."""
    texts = [_PAGE_WORDS, _INSTRUCTION_WORDS, *_SENTENCES, *BRANDS]
    for department in DEPARTMENTS:
        texts += [department.category, *department.path, *department.kinds]
        texts += [attribute.text for attribute in department.attributes]
        texts += [text for name, values in department.options.items() for text in (name, *values)]
    return tuple(sorted({word for text in texts for word in _WORD.findall(re.sub(r"\{.*?\}", " ", text.lower()))}))


def _write(folder: Path, settings: ShopSettings) -> None:
    """Product by product, as a large catalogue would fill the memory."""
    product_file, attribute_file = catalogue_files(folder)
    with product_file.open("w") as products, attribute_file.open("w") as attributes:
        for number, (product, entry) in enumerate(_products(settings)):
            products.write((",\n" if number else "[\n") + json.dumps(product))
            attributes.write((",\n" if number else "{\n") + f"{json.dumps(product['asin'])}: {json.dumps(entry)}")
        products.write("\n]\n")
        attributes.write("\n}\n")


@dataclass(frozen=True, slots=True)
class _Ware:
    """What twins share."""

    department: Department
    kind: str
    attributes: tuple[Attribute, ...]


def _products(settings: ShopSettings) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    rng = random.Random(f"{_FORMAT}/{settings.seed}")
    kinds = _kinds(settings.num_kinds)
    recent: list[_Ware] = []
    first = rng.randrange(_NUM_ASINS)
    for index in range(settings.num_products):
        department, kind = rng.choice(kinds)
        count = max(1, settings.attributes - rng.randrange(2))
        ware = _Ware(department, kind, tuple(rng.sample(department.attributes, count)))
        if recent and rng.random() < settings.twins:
            ware = rng.choice(recent)
        recent = [*recent, ware][-_RECENT:]
        number = (first + index * _ASIN_STRIDE) % _NUM_ASINS
        asin = f"B0{np.base_repr(number, 36):0>8}"  # the official form
        yield _product(rng, ware, asin, settings), _entry(ware)


def _kinds(count: int) -> list[tuple[Department, str]]:
    """The first so many kinds, of each department in turn."""
    turns = zip_longest(*([(department, kind) for kind in department.kinds] for department in DEPARTMENTS))
    return [pair for turn in turns for pair in turn if pair is not None][:count]


def _product(rng: random.Random, ware: _Ware, asin: str, settings: ShopSettings) -> dict[str, Any]:
    brand = rng.choice(BRANDS)
    shown = [attribute.text for attribute in ware.attributes]
    said = {"brand": brand, "kind": ware.kind, "attributes": ", ".join(shown)}
    if len(shown) > 1 and rng.random() < settings.hidden_attributes:
        shown.pop(rng.randrange(len(shown)))
    description = _SENTENCES[1]
    if settings.description_words:
        description = " ".join((description, *rng.choices(webshop_words(), k=settings.description_words)))
    return {
        "name": " ".join((brand, *shown, ware.kind)).title(),
        "full_description": description.format(**said),
        "pricing": _pricing(rng, settings),
        "images": [f"{asin}.jpg"],
        "product_category": PATH_MARK.join((*ware.department.path, ware.kind.title())),
        "average_rating": "",
        "small_description": [_SENTENCES[0].format(**said), _SENTENCES[2]],
        "customization_options": _options(rng, ware.department, settings),
        "asin": asin,
        "category": ware.department.category,
        "query": ware.kind,
        "page": 1,
    }


def _pricing(rng: random.Random, settings: ShopSettings) -> str:
    """A price just below a multiple of ten dollars, or two."""
    steps = range(1, settings.highest_price // _PRICE_STEP + 1)
    count = 2 if rng.random() < settings.price_ranges else 1
    return "".join(f"${_PRICE_STEP * step - 0.01:.2f}" for step in sorted(rng.sample(steps, count)))


def _options(rng: random.Random, department: Department, settings: ShopSettings) -> dict[str, Any] | str:
    """Each with some of its values; without options official data have an empty string."""
    if not settings.option_names or rng.random() < settings.plain:
        return ""
    names = list(department.options)[: rng.randint(1, settings.option_names)]
    options = {}
    for name in names:
        values = department.options[name]
        most = min(settings.values, len(values))
        chosen = rng.sample(values, rng.randint(min(2, most), most))
        options[name] = [{"is_selected": False, "value": value.title(), "image": None} for value in chosen]
    return options


def _entry(ware: _Ware) -> dict[str, Any]:
    """The attribute file's entry: what it is, and the instruction in the official style."""
    said = {
        place: [attribute.text for attribute in ware.attributes if attribute.place == place]
        for place in ("before", "with", "for")
    }
    parts = [f"Find me {', '.join(said['before'])}".rstrip(), ware.kind]
    parts += [f"{place} {', '.join(said[place])}" for place in ("with", "for") if said[place]]
    return {
        "attributes": sorted(attribute.text for attribute in ware.attributes),
        "instruction": " ".join(parts),
        "instruction_attributes": [text for texts in said.values() for text in texts],
    }
