"""What a purchase is worth (WebShop, arXiv:2207.01206), by the rules of the original's code.

The share of what was asked for that the purchase has, times a factor for its being the right kind of thing. Pure
functions of products and goals; what they look up again and again, they remember.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from gigpo_lightning.environments.webshop.colours import COLOURS, plain_colour
from gigpo_lightning.environments.webshop.entities import Goal, Product
from gigpo_lightning.environments.webshop.nouns import Nouns

_ALIKE_ABOVE = 85  # percent, rounded
_LATIN_1 = dict.fromkeys(range(128, 256))  # deleted, as thefuzz does; letters beyond stay
_TITLE_SCORE_WITHOUT_NOUNS = 0.2
_REMEMBERED_PAIRS = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A purchase's reward, and what it is made of.

    ``total`` is ``r_type * (attribute_hits + option_hits + price_ok) / (num_attributes + num_options + 1)``.

    Attributes:
        total: In [0, 1]; exactly 1.0 is the original's success.
        r_type: Factor for the kind of product: 0, 0.1, 0.5 or 1.
        attribute_hits: How many of the goal's attributes the product has.
        num_attributes: How many the goal asks for.
        option_hits: How many of the goal's options were chosen.
        num_options: How many the goal asks for.
        price_ok: The price is not above the goal's limit.
        query_match: Product and goal were found by the same search.
        category_match: Their category paths share at least two parts.
        title_score: Different nouns that the titles share, per noun of the goal's title, its repeats counted; 0.2 if
            that has none.
    """

    total: float
    r_type: float
    attribute_hits: int
    num_attributes: int
    option_hits: int
    num_options: int
    price_ok: bool
    query_match: bool
    category_match: bool
    title_score: float


def shopping_reward(product: Product, price: float, chosen: Mapping[str, str], goal: Goal, nouns: Nouns) -> Reward:
    """Judge a purchase as WebShop does at Buy Now.

    It need not be the goal's own product: whatever has all that was asked for is worth 1. Nor is that always worth 1: a
    value with a colour inside a word never hits its own synthetic wish, because the chosen value becomes the colour
    (``standard`` becomes ``tan``) and the wish does not. So 458 of the 6,910 goals of the 1,000 products cannot be met
    with their own product; human goals are free of this.

    Differs from the original where that fails: a goal without attributes has none to hit, and a price limit of 0 is one
    like any other. And an empty attribute, which the original finds in every text, is hit by nothing; the official
    files of the 1,000 products have none.

    The price is in dollars; the clicked values go by their option's name.
    """
    query_match = product.query == goal.query
    category_match = len(_path_parts(product.product_category) & _path_parts(goal.product_category)) >= 2
    wanted = nouns(goal.title)
    shared = set(nouns(product.title)) & set(wanted)
    title_score = len(shared) / len(wanted) if wanted else _TITLE_SCORE_WITHOUT_NOUNS
    r_type = _type_factor(query_match or category_match, title_score)
    attribute_hits = _attribute_hits(product, goal.attributes)
    option_hits = _option_hits(chosen.values(), goal.options)
    price_ok = price <= goal.price_upper
    share = (attribute_hits + option_hits + price_ok) / (len(goal.attributes) + len(goal.options) + 1)
    return Reward(
        total=r_type * share,
        r_type=r_type,
        attribute_hits=attribute_hits,
        num_attributes=len(goal.attributes),
        option_hits=option_hits,
        num_options=len(goal.options),
        price_ok=price_ok,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
    )


def _type_factor(same_shelf: bool, title_score: float) -> float:
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if same_shelf or title_score > 0.2 else 0.5


def _attribute_hits(product: Product, wanted: tuple[str, ...]) -> int:
    unlisted = [one for one in wanted if not any(_alike(listed, one) for listed in product.attributes)]
    if not unlisted:
        return len(wanted)
    texts = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return len(wanted) - sum(not (one.strip() and any(one in text for text in texts)) for one in unlisted)


def _option_hits(chosen: Iterable[str], wanted: tuple[str, ...] | tuple[tuple[str, str], ...]) -> int:
    values = [plain_colour(value) for value in chosen]
    return sum(any(_alike(value, text) for value in values) for text in map(_wanted_text, wanted))


@lru_cache(maxsize=_REMEMBERED_PAIRS)
def _wanted_text(option: str | tuple[str, str]) -> str:
    """Return what the original compares with a chosen value: of a pair it takes Python's own way of writing it."""
    if isinstance(option, str):
        return plain_colour(option)
    return next((colour for colour in COLOURS if colour in option), str(option))


@lru_cache(maxsize=1 << 14)
def _path_parts(category: str) -> frozenset[str]:
    return frozenset(part.strip() for part in category.split("›"))


@lru_cache(maxsize=_REMEMBERED_PAIRS)
def _alike(left: str, right: str) -> bool:
    """Compare as thefuzz 0.22 does with ``token_set_ratio``."""
    return round(fuzz.token_set_ratio(_words(left), _words(right))) > _ALIKE_ABOVE


@lru_cache(maxsize=_REMEMBERED_PAIRS)
def _words(text: str) -> str:
    return default_process(text.translate(_LATIN_1))
