"""WebShop as a Gymnasium environment: the state machine of the original's text mode."""

import json
import math
import re
from typing import Any, Literal

import gymnasium

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.webshop import pages
from gigpo_lightning.environments.webshop.catalogue import Catalogue
from gigpo_lightning.environments.webshop.entities import Goal
from gigpo_lightning.environments.webshop.nouns import Nouns, PlainNouns
from gigpo_lightning.environments.webshop.pages import Page
from gigpo_lightning.environments.webshop.reward import shopping_reward
from gigpo_lightning.errors import check_range

NUM_RESULTS = 50
SEARCH = "search[<your query>]"
"""How the list of admissible actions offers a search."""
_ACTION = re.compile(r"(.+)\[(.+)\]")
_SUB_PAGES = {name.lower(): name for name in (pages.DESCRIPTION, pages.FEATURES, pages.REVIEWS, pages.ATTRIBUTES)}


class WebShopEnvironment(gymnasium.Env[str, str]):
    """Searches, looks and buys, by ``search[words]`` and ``click[text]``; anything else changes nothing.

    The observation is the page without the instruction, in verl-agent's form; chosen options are not on it, as in the
    original. An episode ends when something is bought: the score in [0, 1] says how well it fits (``reward.py``), and
    the reward is ``success_reward`` if it fits in everything, else 0 (App. E of arXiv:2505.10978). There is no step
    limit here. ``info["metrics"]`` holds the score.

    Differs from the original: words that begin with ``<r>``, ``<a>``, ``<c>`` or ``<q>`` are searched for like any
    others (there, they list products without a search, and two of them crash); and what is shown after the purchase is
    its own page (verl-agent shows a new episode's first).

    Args:
        catalogue: What is sold; all copies of this environment share it.
        anchor: ``"observation"`` groups steps by the page, as the paper does; ``"state"`` also by what pages do not
            show: chosen options, the search that led here, and the price.
        nouns: Finds the nouns of a product's name; default: ``PlainNouns()``. The original's are ``SpacyNouns``.
        show_attributes: Whether products have the page of attributes, too.
        success_reward: Reward of buying what fits in everything.

    Raises:
        ValueError: If ``anchor`` is neither.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        anchor: Literal["observation", "state"] = "observation",
        nouns: Nouns | None = None,
        show_attributes: bool = False,
        success_reward: float = 10.0,
    ) -> None:
        if anchor not in ("observation", "state"):
            raise ValueError(f"anchor must be 'observation' or 'state', got {anchor!r}")
        check_range("success_reward", success_reward, -math.inf)
        self.catalogue = catalogue
        self.anchor = anchor
        self.nouns = PlainNouns() if nouns is None else nouns
        self.show_attributes = show_attributes
        self.success_reward = success_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._goal: Goal | None = None
        self._go_to_index()

    def warm_up(self) -> None:
        """Find nouns once, so that a tagger that is not installed is missed before any episode begins."""
        self.nouns("warm up")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Open the shop for the goal of ``options["task"]``.

        Raises:
            ValueError: If there is no task with a goal, or a file of the catalogue cannot be read.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task) or not isinstance(task.payload.get("goal"), Goal):
            raise ValueError(f"options must have a 'task' whose payload has a 'goal', got {options!r}")
        if task.payload.get("shop", self.catalogue.identity) != self.catalogue.identity:
            raise ValueError(
                f"catalogue must be the one that the tasks come from, {task.payload['shop']}, got "
                f"{self.catalogue.identity}"
            )
        self._goal = task.payload["goal"]
        self._shelves = self.catalogue.shelves
        self._go_to_index()
        info = self._info(score=0.0)
        info["instruction"] = self._goal.instruction
        return self._page.text, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Search or click; what cannot be done changes nothing."""
        assert self._goal is not None, "reset comes first"
        found = _ACTION.match(action) if "]" in action else None
        verb, argument = found.groups() if found else ("", "")
        argument = argument.lower()
        if verb == "search":
            self._go_to_results(argument, 1)
        elif verb == "click" and argument in self._page.clickables and argument != "search":
            if argument == pages.BUY.lower():
                return self._buy()
            self._click(argument)
        return self._page.text, 0.0, False, False, self._info(score=0.0)

    def _go_to_index(self) -> None:
        self._query, self._number = "", 0
        self._asin: str | None = None
        self._sub_page = ""
        self._chosen: dict[str, str] = {}
        self._page: Page = pages.INDEX

    def _click(self, text: str) -> None:
        """Follow a click; a button's word means the button, even if an option has the same name."""
        if text == pages.BACK_TO_SEARCH.lower():
            self._go_to_index()
        elif text == pages.NEXT.lower() and self._asin is None:
            self._go_to_results(self._query, self._number + 1)
        elif text == pages.PREVIOUS.lower():
            if self._asin is None:
                self._go_to_results(self._query, self._number - 1)
            elif self._sub_page:
                self._go_to_item(self._asin)
            else:
                self._go_to_results(self._query, self._number)
        elif text in _SUB_PAGES:
            assert self._asin is not None
            self._sub_page = _SUB_PAGES[text]
            self._page = pages.sub_page(self.catalogue[self._asin], self._sub_page)
        elif self._asin is None:
            self._go_to_item(text.upper())
        else:
            self._choose(text)

    def _go_to_results(self, query: str, number: int) -> None:
        self._go_to_index()
        self._query, self._number = query, number
        rows = self._shelves.best(query, NUM_RESULTS)
        shown = rows[(number - 1) * pages.PAGE_SIZE : number * pages.PAGE_SIZE]
        self._page = pages.results_page([self._shelves.product(row) for row in shown], number, len(rows))

    def _go_to_item(self, asin: str) -> None:
        self._asin, self._sub_page = asin, ""
        self._page = self._shelves.item_page(self._shelves.rows[asin], self.show_attributes)

    def _choose(self, value: str) -> None:
        """Choose an option; of two that have the value, the later one."""
        assert self._asin is not None
        owners = [name for name, values in self.catalogue[self._asin].options.items() if value in values]
        self._chosen[owners[-1]] = value

    def _buy(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self._asin is not None
        assert self._goal is not None
        price = self.catalogue.price(self._asin)
        score = shopping_reward(self.catalogue[self._asin], price, self._chosen, self._goal, self.nouns).total
        self._page = pages.done_page(score)
        info = self._info(score)
        return self._page.text, self.success_reward * (score == 1.0), True, False, info

    def _info(self, score: float) -> dict[str, Any]:
        search = (SEARCH,) if self._page.has_search_bar else ()
        clicks = (f"click[{text}]" for text in self._page.clickables if text != "search")
        return {
            "anchor": self._page.text if self.anchor == "observation" else self._state_key(),
            "admissible_actions": (*search, *clicks),
            "success": score == 1.0,
            "metrics": {"score": score},
        }

    def _state_key(self) -> str:
        price = None if self._asin is None else self.catalogue.price(self._asin)
        hidden = (self._query, self._number, self._asin, sorted(self._chosen.items()), price)
        return f"{self._page.text}\n{json.dumps(hidden)}"
