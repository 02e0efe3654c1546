"""What a shop sells, and what a shopper is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One entry of the official product file, with its entry of the attribute file.

    Attributes:
        asin: The product's id, ten characters.
        title: Its name.
        description: May be empty.
        bullets: The listed features.
        price_tag: The price as pages show it, such as ``$8.99 to $25.99``.
        prices: The one price, or the lowest and the highest, in dollars.
        options: Choices by their lower-cased name, such as ``size``; each with its lower-cased values.
        attributes: What the product is said to be, such as ``gluten free``.
        category: The coarse one, such as ``beauty``.
        query: The search that it was found by.
        product_category: The shop's own path, such as ``Beauty › Hair Care``.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price_tag: str
    prices: tuple[float, ...]
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    category: str
    query: str
    product_category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What to buy.

    Attributes:
        instruction: What is asked for, in words, its price limit included.
        asin: The product that the goal was made from; another may do as well.
        title: That product's name.
        attributes: What the product must be.
        options: What must be chosen: values, as human goals have them, or pairs of name and value, as synthetic ones.
        price_upper: Highest price, in dollars.
        category: That product's.
        query: That product's.
        product_category: That product's.
        weight: How often an unnamed session would draw it, relatively.
    """

    instruction: str
    asin: str
    title: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] | tuple[tuple[str, str], ...]
    price_upper: float
    category: str
    query: str
    product_category: str
    weight: float = 1.0
