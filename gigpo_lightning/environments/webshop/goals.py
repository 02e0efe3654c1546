"""What shoppers are asked for: made of the products, or written by people (facts from the original's ``goal.py``)."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gigpo_lightning.environments.webshop.entities import Goal, Product

NO_LIMIT = 1_000_000.0
_LIMITS = tuple(10.0 * number for number in range(1, 100))
_NEXT = 4
"""How many of the limits above a price are drawn from."""


def synthetic_goals(products: Iterable[tuple[Product, float, Mapping[str, Any]]], rng: random.Random) -> list[Goal]:
    """Make a goal of every combination of a product's options, for each product that has an instruction.

    Args:
        products: In the file's order: the product, its price, and its entry of the attribute file.
        rng: Draws the price limits, one a product; it goes on from the prices.

    Raises:
        ValueError: If an instruction names no attribute.
    """
    goals: list[Goal] = []
    for product, price, entry in products:
        if entry.get("instruction") is None:
            continue
        attributes = tuple(entry.get("instruction_attributes") or ())
        if not attributes:
            raise ValueError(f"product {product.asin!r} has an instruction, and so must have instruction_attributes")
        price_upper, limit = _draw_limit(price, rng)
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            # One name may be taken once only, as in the original's dictionary; names are distinct already.
            options = tuple(zip(names, values, strict=True))
            chosen = ", and ".join(f"{name}: {value}" for name, value in options)
            text = entry["instruction"] + (f" with {chosen}" if chosen else "") + limit
            goals.append(_goal(product, text, attributes, options, price_upper))
    counts = Counter(attribute for goal in goals for attribute in goal.attributes)
    return [_weighed(goal, counts) for goal in goals]


def human_goals(products: Iterable[tuple[Product, float, list[dict[str, Any]]]], rng: random.Random) -> list[Goal]:
    """Make a goal of every instruction that people wrote, but those that name no attribute.

    Args:
        products: In the file's order: the product, its price, and its entries of the file of instructions.
        rng: Draws the price limits, one an instruction; it goes on from the prices.
    """
    goals = []
    for product, price, entries in products:
        for entry in entries:
            attributes = tuple(entry["instruction_attributes"])
            if not attributes:
                continue
            price_upper, limit = _draw_limit(price, rng)
            text = entry["instruction"].strip(".") + limit
            goals.append(_goal(product, text, attributes, tuple(entry["instruction_options"]), price_upper))
    return goals


def check_description(entry: object, where: str) -> None:
    """Check a product's entry of the attribute file.

    Raises:
        ValueError: If it is not of the official form; the message says where, and what.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object, got {entry!r}")
    for name in ("attributes", "instruction_attributes"):
        if name in entry and not (_is_texts(entry[name]) or (name == "instruction_attributes" and entry[name] is None)):
            raise ValueError(f"{where} must list texts as its {name}, got {entry[name]!r}")
    if not isinstance(entry.get("instruction", ""), str | None):
        raise ValueError(f"{where} must have a text as its instruction, got {entry['instruction']!r}")


def check_wishes(entries: object, where: str) -> None:
    """Check a product's entry of the file of instructions that people wrote.

    Raises:
        ValueError: If it is not of the official form; the message says where, and what.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where} must be a list of objects, got {entries!r:.200}")
    for entry in entries:
        if not isinstance(entry.get("instruction"), str):
            raise ValueError(f"{where} must have a text as its instruction, got {entry.get('instruction')!r}")
        for name in ("instruction_attributes", "instruction_options"):
            if not _is_texts(entry.get(name)):
                raise ValueError(f"{where} must list texts as its {name}, got {entry.get(name)!r}")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _draw_limit(price: float, rng: random.Random) -> tuple[float, str]:
    """The highest price, and how an instruction says it; dear products have none."""
    limits = [limit for limit in _LIMITS if limit > price][:_NEXT]
    if len(limits) < 2:
        return NO_LIMIT, ""
    price_upper = max(rng.sample(limits, 2))
    return price_upper, f", and price lower than {price_upper:.2f} dollars"


def _goal(
    product: Product,
    instruction: str,
    attributes: tuple[str, ...],
    options: tuple[str, ...] | tuple[tuple[str, str], ...],
    price_upper: float,
) -> Goal:
    return Goal(
        instruction=instruction,
        asin=product.asin,
        title=product.title,
        attributes=attributes,
        options=options,
        price_upper=price_upper,
        category=product.category,
        query=product.query,
        product_category=product.product_category,
    )


def _weighed(goal: Goal, counts: Mapping[str, int]) -> Goal:
    weight = sum(1.0 / counts[attribute] for attribute in goal.attributes) / len(goal.attributes)
    # dataclasses.replace is several times slower, and there are thousands.
    return Goal(**{name: getattr(goal, name) for name in Goal.__slots__} | {"weight": weight})
