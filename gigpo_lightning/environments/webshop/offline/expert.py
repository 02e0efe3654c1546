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
        self._seen: dict[str, tuple[int, int]] = {}  # of the last search: how well each product fits, and its page
        self._asin = ""
        self._lacking: set[str] = set()  # what they are asked for
        self._chosen: dict[str, str] = {}
        self._settles = False

    def observe(self, action: str) -> None:
        """Hear what was really done."""
        found = _CLICK.fullmatch(action)
        clicked = found[1] if found else ""
        if action.startswith("search["):
            self._seen = {}
        if self._page.kind == "results" and clicked in (offer.asin.lower() for offer in self._page.offers):
            self._asin = clicked
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
        """Open the best product seen that is cheap enough and lacks nothing; if there is none, turn the page.

        On the last page take the best that there is.
        """
        offers, number = self._page.offers, self._page.number
        for offer in offers:
            self._seen.setdefault(offer.asin.lower(), (self._matches(offer), number))
        known = {asin: said for asin, said in self._seen.items() if asin not in self._lacking}
        best = max(known, key=lambda asin: known[asin][0], default="")  # of equals, the shop's own order stands
        if known and known[best][0] and known[best][1] == number:
            return f"click[{best}]"
        if known and known[best][0] and known[best][1] < number and "click[< prev]" in actions:
            return "click[< prev]"
        if offers and number < _LAST_PAGE and "click[next >]" in actions:
            return "click[next >]"
        self._settles = True
        here = max(offers, key=self._matches, default=None)
        return f"click[{here.asin.lower()}]" if here else "click[back to search]"

    def _choose(self, actions: Sequence[str]) -> str:
        """Choose every option that is asked for, then buy; leave what lacks one, or fits worse than another."""
        options = self._page.options
        lacking = [name for name in self._asked if not wanted_value(self._instruction, name, options.get(name, ()))]
        if lacking:
            self._lacking.add(self._asin)
        best = max((fit for asin, (fit, _) in self._seen.items() if asin not in self._lacking), default=0)
        worse = self._seen.get(self._asin, (best, 0))[0] < best
        if (lacking or worse) and not self._settles and "click[< prev]" in actions:
            return "click[< prev]"
        for name, values in options.items():
            wanted = wanted_value(self._instruction, name, values)
            if wanted and self._chosen.get(name) != wanted:
                return f"click[{wanted}]"
        return "click[buy now]"

    def _matches(self, offer: Offer) -> int:
        """How many of the instruction's words a title has; none, if it is too dear."""
        if self._limit is not None and highest_price(offer.price_tag) > self._limit:
            return 0
        return len(frozenset(words_of(offer.title)).intersection(self._words))
