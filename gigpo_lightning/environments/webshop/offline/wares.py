"""The small invented world that generated catalogues sell: kinds of product, brands, attributes and options."""

from dataclasses import dataclass
from typing import Literal

PATH_MARK = " \u203a "
"""What stands between the parts of a ``product_category``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that a product is said to be.

    Attributes:
        text: In lower case; no word stands in two attributes of one department, so that none passes for another.
        place: Where instructions say it: before the kind of product, after ``with`` or after ``for``.
    """

    text: str
    place: Literal["before", "with", "for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Department:
    """A part of the shop.

    Attributes:
        category: The coarse name of official data.
        path: The shop's own name of it, the beginning of ``product_category``.
        kinds: Kinds of product; each is the ``query`` of its products, and named in their titles.
        attributes: What its products may be.
        options: What may be chosen, by the option's name, with all values that any product has.
    """

    category: str
    path: tuple[str, ...]
    kinds: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    options: dict[str, tuple[str, ...]]


def _attributes(before: str, with_: str, for_: str) -> tuple[Attribute, ...]:
    listed: list[Attribute] = []
    for place, texts in (("before", before), ("with", with_), ("for", for_)):
        listed += [Attribute(text=text, place=place) for text in texts.split(", ")]  # type: ignore[arg-type]
    return tuple(listed)


# Plain colours: the reward takes any text that contains one of them for that colour.
_COLOURS = ("black", "white", "blue", "green", "pink", "purple", "orange", "yellow")

BRANDS = ("Alder", "Birchwood", "Corvane", "Dunmore", "Elvet", "Fennick", "Garrow", "Hollin", "Istria", "Juniper")

DEPARTMENTS = (
    Department(
        category="fashion",
        path=("Clothing, Shoes & Jewelry", "Clothing"),
        kinds=("running shoes", "rain jackets", "wool sweaters", "canvas hats", "denim skirts", "summer dresses"),
        attributes=_attributes(
            "slim fit, quick drying, machine washable",
            "long sleeve, button closure, rubber sole",
            "daily wear, gym workout",
        ),
        options={"Color": _COLOURS, "Size": ("small", "medium", "large")},
    ),
    Department(
        category="electronics",
        path=("Electronics", "Accessories & Supplies"),
        kinds=("travel speakers", "wall chargers", "video cables", "desk keyboards", "game headsets"),
        attributes=_attributes(
            "water resistant, fast charging, noise cancelling",
            "carrying case, wireless bluetooth, gold plated",
            "home theater, office meetings",
        ),
        options={"Color": _COLOURS, "Length": ("short", "middle", "extended")},
    ),
    Department(
        category="garden",
        path=("Home & Kitchen", "Furniture"),
        kinds=("coffee tables", "floor lamps", "storage shelves", "bar stools", "window curtains"),
        attributes=_attributes(
            "space saving, easy assemble, heavy duty",
            "solid oak, steel frame, soft cushion",
            "living room, guest bedroom",
        ),
        options={"Color": _COLOURS, "Size": ("small", "medium", "large")},
    ),
    Department(
        category="beauty",
        path=("Beauty & Personal Care", "Care"),
        kinds=("hand creams", "hair brushes", "lip balms", "body lotions", "nail polishes"),
        attributes=_attributes(
            "cruelty free, alcohol safe, long lasting",
            "coconut oil, green tea, natural ingredients",
            "dry skin, sensitive scalp",
        ),
        options={"Scent": ("rose", "lavender", "citrus", "vanilla"), "Size": ("small", "medium", "large")},
    ),
    Department(
        category="grocery",
        path=("Grocery & Gourmet Food", "Pantry"),
        kinds=("oat cookies", "fruit teas", "rice crackers", "nut mixes", "breakfast bars"),
        attributes=_attributes(
            "gluten free, low sugar, plant based",
            "dietary fiber, extra protein, real cocoa",
            "school lunch, gift baskets",
        ),
        options={"Flavor Name": ("berry", "lemon", "mint", "honey", "ginger", "apple"), "Pack": ("single", "double")},
    ),
)
