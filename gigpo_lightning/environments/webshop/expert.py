"""A scripted expert that shops: it knows only what it has read, so that what it does can be learnt."""

import re
from collections.abc import Sequence

from gigpo_lightning.environments.webshop.reading import (
    Offer,
    Page,
    asked_options,
    highest_price,
    price_limit,
    read_page,
    wanted_value,
    wanted_words,
    words_of,
)

_CLICK = re.compile(r"click\[(.*)\]")
_LAST_PAGE = 3


class ShoppingExpert:
    """Searches with the instruction's words, opens the product that fits best, chooses what is asked for, and buys.

    It sees the instruction, the pages and what can be clicked; it never reads the catalogue or the goal. A product
    that lacks an option that is asked for is left, and the next one opened; where none is left, the best of those is
    bought. Others may act in its place: it is told of each action with ``observe``. It trusts titles: descriptions and
    features are never read.
    """

    def __init__(self) -> None:
        self.reset("", "")

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode and begin one."""
        self._instruction = instruction
        self._words = wanted_words(instruction)
        self._limit = price_limit(instruction)
        self._asked = asked_options(instruction)
        self._page = Page(kind="index")
        self._opened: set[str] = set()
        self._chosen: dict[str, str] = {}
        self._settles = False

    def observe(self, action: str) -> None:
        """Hear what was really done."""
        found = _CLICK.fullmatch(action)
        clicked = found[1] if found else ""
        if self._page.kind == "results" and clicked in (offer.asin.lower() for offer in self._page.offers):
            self._opened.add(clicked)
            self._chosen = {}
        for name, values in self._page.options.items():
            if clicked in values:
                self._chosen[name] = clicked

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """Say what to do now.

        Raises:
            ValueError: If ``admissible_actions`` is empty.
        """
        if not admissible_actions:
            raise ValueError("admissible_actions must hold at least one action, got none")
        self._page = read_page(observation, tuple(admissible_actions))
        if self._page.kind == "index":
            return f"search[{' '.join(self._words)}]"
        if self._page.kind == "results":
            return self._open(admissible_actions)
        if self._page.kind == "item":
            return self._choose(admissible_actions)
        return "click[< prev]" if "click[< prev]" in admissible_actions else admissible_actions[0]

    def _open(self, actions: Sequence[str]) -> str:
        """Open the best product that is new and cheap enough; else look at the next page, else take what there is."""
        offers = sorted(self._page.offers, key=self._matches, reverse=True)
        new = [each for each in offers if self._is_affordable(each) and each.asin.lower() not in self._opened]
        if new:
            return _click(new[0])
        if offers and self._page.number < _LAST_PAGE and "click[next >]" in actions:
            return "click[next >]"
        self._settles = True
        affordable = [each for each in offers if self._is_affordable(each)]
        best = (affordable or offers)[:1]
        return _click(best[0]) if best else "click[back to search]"

    def _choose(self, actions: Sequence[str]) -> str:
        """Choose every option that is asked for, then buy; leave what lacks one."""
        options = self._page.options
        lacking = [name for name in self._asked if not wanted_value(self._instruction, name, options.get(name, ()))]
        if lacking and not self._settles and "click[< prev]" in actions:
            return "click[< prev]"
        for name, values in options.items():
            wanted = wanted_value(self._instruction, name, values)
            if wanted and self._chosen.get(name) != wanted:
                return f"click[{wanted}]"
        return "click[buy now]"

    def _matches(self, offer: Offer) -> int:
        """How many of the instruction's words a title has; of equals, the shop's own order stands."""
        return len(frozenset(words_of(offer.title)).intersection(self._words))

    def _is_affordable(self, offer: Offer) -> bool:
        return self._limit is None or highest_price(offer.price_tag) <= self._limit


def _click(offer: Offer) -> str:
    return f"click[{offer.asin.lower()}]"
