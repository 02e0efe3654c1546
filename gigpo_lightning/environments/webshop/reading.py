"""What a shopper reads: pages as they are shown, and instructions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

SEARCH_OFFER = "search[<your query>]"

_BETWEEN = "' [SEP] '"
_RESULTS = re.compile(r"Page (\d+) \(Total results: (\d+)\)")
BUTTONS = ("back to search", "< prev", "next >", "description", "features", "reviews", "attributes", "buy now")
"""What can be clicked on every page of a kind."""
_PRICE = re.compile(r"\d+(?:\.\d+)?")
_LIMIT = re.compile(r",? and price lower than (\d+(?:\.\d+)?) dollars")
_ASKED = re.compile(r"(?:\bwith|, and) ([^:,]+): ")
_WORD = re.compile(r"[a-z0-9]+")
# Words of instructions that say nothing about a product.
_FILLER = frozenset(
    (
        *("i", "me", "my", "you", "it", "that", "which", "is", "are", "be", "am", "a", "an", "the", "some", "s", "m"),
        *("and", "or", "with", "for", "of", "in", "on", "to", "from", "by", "at", "than", "lower", "price", "dollars"),
        *("find", "need", "want", "looking", "look", "would", "like", "buy", "get", "please", "should", "has", "have"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A product of a result page; its price tag is such as ``$8.99 to $25.99``."""

    asin: str
    title: str
    price_tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page, read.

    Attributes:
        kind: ``index`` has the search bar, ``results`` lists products, ``item`` is one, ``text`` is about one.
        number: Of a result page, from 1.
        offers: Its products, in the page's order.
        title: The item's name.
        price_tag: The item's price.
        options: What can be chosen of the item: values by the option's name, in lower case.
    """

    kind: Literal["index", "results", "item", "text"]
    number: int = 0
    offers: tuple[Offer, ...] = ()
    title: str = ""
    price_tag: str = ""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@lru_cache(maxsize=1 << 12)  # a group's episodes see the same pages
def read_page(observation: str, admissible_actions: tuple[str, ...]) -> Page:
    """Read an observation of the environment; what is no page of the shop is read as text.

    Args:
        observation: The page's parts, quoted, between ``[SEP]``.
        admissible_actions: What can be done on it, which tells an option's values from its name.
    """
    parts = observation.strip().removeprefix("'").removesuffix("'").split(_BETWEEN)
    if SEARCH_OFFER in admissible_actions:
        return Page(kind="index")
    for place, part in enumerate(parts):
        found = _RESULTS.fullmatch(part)
        if found:
            return Page(kind="results", number=int(found[1]), offers=_offers(parts[place + 1 :]))
    if "click[buy now]" not in admissible_actions:
        return Page(kind="text")
    end = next((place for place, part in enumerate(parts) if part.startswith("Price: ")), len(parts))
    start = parts.index("< Prev") + 1 if "< Prev" in parts else 0
    price_tag = parts[end].removeprefix("Price: ") if end < len(parts) else ""
    *choices, title = parts[start:end] or [""]
    return Page(kind="item", title=title, price_tag=price_tag, options=_options(choices, admissible_actions))


def _offers(parts: Sequence[str]) -> tuple[Offer, ...]:
    rest = [part for part in parts if part not in ("< Prev", "Next >")]
    rest = rest[: len(rest) // 3 * 3]
    return tuple(Offer(asin=a, title=t, price_tag=p) for a, t, p in zip(rest[::3], rest[1::3], rest[2::3], strict=True))


def _options(parts: Iterable[str], admissible_actions: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names are what cannot be clicked."""
    clickable = frozenset(admissible_actions)
    options: dict[str, tuple[str, ...]] = {}
    name = ""
    for part in (part.lower() for part in parts):
        if f"click[{part}]" in clickable and name:
            options[name] = (*options[name], part)
        else:
            name = part
            options.setdefault(name, ())
    return options


def highest_price(price_tag: str) -> float:
    """The most that a price tag may mean, in dollars; 0 where it names no price."""
    return max((float(price) for price in _PRICE.findall(price_tag.replace(",", ""))), default=0.0)


def price_limit(instruction: str) -> float | None:
    """The highest price that an instruction allows, in dollars; None where it does not say."""
    found = _LIMIT.search(instruction.lower())
    return float(found[1]) if found else None


def wanted_words(instruction: str) -> tuple[str, ...]:
    """The words of an instruction that say something about the product, each once; its price limit is left out."""
    return tuple(dict.fromkeys(words_of(_LIMIT.sub(" ", instruction.lower()))))


@lru_cache(maxsize=1 << 14)
def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers of a text, without those that say nothing about a product."""
    return tuple(word for word in _WORD.findall(text.lower()) if word not in _FILLER)


def asked_options(instruction: str) -> tuple[str, ...]:
    """The names of the options that a synthetic instruction asks for, as in ``with color: blue, and size: small``."""
    named = _ASKED.findall(_LIMIT.sub("", instruction.lower()))
    return tuple(name.rsplit(" with ", 1)[-1] for name in named)


def wanted_value(instruction: str, name: str, values: Sequence[str]) -> str:
    """The value of an option that an instruction asks for; empty where it asks for none that is there.

    Where ``name: value`` is said, as in synthetic instructions, only that very value will do; else it is the longest
    whose words all occur.
    """
    text = _LIMIT.sub("", instruction.lower()) + ","
    if f"{name}: " in text:
        return next((value for value in values if f"{name}: {value}," in text), "")
    wanted = frozenset(_WORD.findall(text))
    fitting = [value for value in values if (words := _WORD.findall(value)) and wanted.issuperset(words)]
    return max(fitting, key=len, default="")
