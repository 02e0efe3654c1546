"""The pages of the shop as the original's ``text`` mode shows them, in the form that verl-agent gives them.

A page is what stands between its tags, in their order, after the instruction: each piece in quotes, ``[SEP]`` between
them. Beside it go the texts that can be clicked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gigpo_lightning.environments.webshop.entities import Product

PAGE_SIZE = 10
BACK_TO_SEARCH, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES = "Description", "Features", "Reviews", "Attributes"
_WHITE = " \t\n\f\r"
"""What HTML calls white; a no-break space is text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page without its instruction; clickables are in lower case, and a search is possible on every page."""

    text: str
    clickables: tuple[str, ...]
    has_search_bar: bool = False


INDEX = Page(text="'Search'", clickables=("search",), has_search_bar=True)


def results_page(products: Sequence[Product], number: int, total: int) -> Page:
    """A page of search results, best first; pages count from 1, and ``total`` is of all pages."""
    buttons = [BACK_TO_SEARCH, *([PREVIOUS] if number > 1 else []), NEXT]
    pieces = [BACK_TO_SEARCH, f"Page {number} (Total results: {total})", *buttons[1:]]
    for product in products:
        pieces += (product.asin, *_piece(product.title), product.price_tag)
    return _page(pieces, [*buttons, *(product.asin for product in products)])


def item_page(product: Product, show_attributes: bool = False) -> Page:
    """A product's page; which options are chosen, it does not say, in the original neither."""
    pages = [DESCRIPTION, FEATURES, REVIEWS, *([ATTRIBUTES] if show_attributes else [])]
    pieces = [BACK_TO_SEARCH, PREVIOUS]
    for name, choices in product.options.items():
        pieces += (piece for text in (name, *choices) for piece in _piece(text))
    pieces += (*_piece(product.title), f"Price: {product.price_tag}", "Rating: N.A.", *pages, BUY)
    values = [value for choices in product.options.values() for value in choices]
    return _page(pieces, [BACK_TO_SEARCH, PREVIOUS, *pages, BUY], values)


def sub_page(product: Product, name: str) -> Page:
    """The page behind a button of a product's page; no product has reviews."""
    pieces = [BACK_TO_SEARCH, PREVIOUS]
    if name == DESCRIPTION:
        pieces += _piece(f"\n{product.description}")
    elif name == FEATURES:
        pieces += (piece for bullet in product.bullets for piece in _piece(f" {bullet}"))
    elif name == ATTRIBUTES:
        pieces += (piece for attribute in product.attributes for piece in _piece(f" {attribute}"))
        pieces += (p for text in (product.category, product.query, product.product_category) for p in _piece(text))
    return _page(pieces, [BACK_TO_SEARCH, PREVIOUS])


def done_page(score: float) -> Page:
    """What a purchase ends with; nothing can be clicked."""
    return _page(["Thank you for shopping with us!", "Your score (min 0.0, max 1.0)", str(score)], [])


def _page(pieces: Sequence[str], buttons: Sequence[str], values: Sequence[str] = ()) -> Page:
    # A piece that holds the separator counts as several in verl-agent, which parts the text that it is given.
    said = " [SEP] ".join(pieces).split(" [SEP] ")
    text = " [SEP] ".join(f"'{piece}'" for piece in said)
    return Page(text=text, clickables=tuple(dict.fromkeys((*(button.lower() for button in buttons), *values))))


def _piece(text: str) -> tuple[str, ...]:
    """The text as a browser's text node, stripped; none for an empty one, or for white space that breaks a line."""
    if not text.strip(_WHITE) and (not text or "\n" in text):
        return ()
    return (text.strip(),)
