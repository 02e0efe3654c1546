"""WebShop's prompts and their parsers: the paper's form for instruct models, a compact one for tiny policies."""

import math
import re
from dataclasses import dataclass

from gigpo_lightning.environments.webshop.reading import (
    BUTTONS,
    SEARCH_OFFER,
    Page,
    highest_price,
    price_limit,
    read_page,
    wanted_words,
    words_of,
)
from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, ShowsHistory, Tokenizer, TurnView
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.tagged import TaggedPrompt, tell_turn
from gigpo_lightning.prompts.world_text import as_text
from gigpo_lightning.text import well_formed

_MOST_CHARACTERS = 13_000
_SEARCH = re.compile(r"search\[(.*\S.*)\]", re.DOTALL)
_CLICK = re.compile(r"click\[(.*)\]", re.DOTALL)

_ROLE = "You act as a skilled shopper in WebShop, an online shop that you search and click through by its pages' texts."
_ORDER = (
    "Choose what to do next. First think it through, step by step, between <think> and </think>. "
    "Then write exactly one of the available actions between <action> and </action>, with a query of your own where "
    "you search."
)

TASK, LIMIT, DID, NOW, ITEM = "<task>", "<limit>", "<did>", "<now>", "<item>"
CAN, TRIED, ACT = "<can>", "<tried>", "<act>"

_NOT_OFFERED_COMPACT = ("back to search", "description", "features", "reviews", "attributes", "search")
_OWN_WORDS = (
    *("search", "click", "page", "buy", "now", "prev", "next", "back", "to"),
    *("description", "features", "reviews"),
)
_WORD = re.compile(r"[a-z0-9]+")
_HIGHEST_NUMBER = 200  # of dollars and pages
_LONGEST_ACTION = 12  # words of an earlier action that are shown


class WebShopPrompt(TaggedPrompt):
    """The paper's form: instruction, last turns, page, available actions; the reply thinks and acts between tags.

    A message longer than 13,000 characters drops its history. Of a reply without action tags the last 20 characters
    are sent.
    """

    last_characters = 20

    def num_turns(self, view: TurnView) -> int:
        """How many earlier turns are shown if there is room: all that are asked for, or none."""
        turns = super().num_turns(view)
        return turns if len(self.message(view, turns, view.observation)) <= _MOST_CHARACTERS else 0

    def message(self, view: TurnView, num_turns: int, observation: str) -> str:
        """The message of a turn."""
        now = f"This is step {len(view.history) + 1}. You now observe: {observation}"
        told = tell_turn(view, num_turns, now, not_offered=("click[search]",))
        return "\n\n".join((_ROLE, f"Your task is: {view.instruction}", *told, _ORDER))

    def is_offered(self, action: str, offered: tuple[str, ...]) -> bool:
        """Whether an action is one of the available ones; where there is a search bar, any query is."""
        return action in offered or (SEARCH_OFFER in offered and _SEARCH.fullmatch(action) is not None)


@dataclass(eq=False)
class CompactWebShopPrompt(ShowsHistory):
    """A turn in lower-case words and a few markers: about 60 tokens on a page of ten results.

    Fields: the instruction's words and its price limit; earlier actions, as pages do not show which options are
    chosen; what the page says that the instruction names; what can be done, products and options chosen before last;
    then the marker after which the policy writes. Of a product's title only the words that the instruction names are
    shown, prices in dollars, rounded up. A product is clicked by its place on the page, ``click 3``, anything else by
    its words, ``click buy now``; ``search`` alone looks for the instruction's words, others may follow it. Going back
    to the search bar and what is told about a product are not shown; they may be written.
    """

    markers = (TASK, LIMIT, DID, NOW, ITEM, CAN, TRIED, ACT)
    history_length: int = 8
    """Earlier actions shown."""
    mark_tried: bool = True
    """Whether products and options chosen before come last, after a marker."""

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest actions go first, then what the page says.

        Raises:
            NoRoomError: If instruction and actions alone are longer than ``max_tokens``.
        """
        view = as_text(view, tokenizer, self)
        wanted = wanted_words(view.instruction)
        limit = price_limit(view.instruction)
        task = (TASK, *wanted, *((LIMIT, _dollars(limit)) if limit else ()))
        turns = _compact_turns(view, self.history_length)
        page = read_page(view.observation, view.admissible_actions or ())
        offer = _compact_offer(view, page, frozenset(wanted), self.mark_tried)

        def write(num_turns: int, said: str) -> list[int]:
            did = [word for turn in turns[len(turns) - num_turns :] for word in (DID, *turn)]
            return tokenizer.encode(" ".join((*task, *did, NOW, *said.split(), CAN, *offer, ACT)))

        return fit_prompt(write, len(turns), _said(view.observation, page, frozenset(wanted)), max_tokens)

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Turn a reply into the action that it means; it is valid if that is one of the admissible ones.

        Where the environment names no admissible actions, every reply is sent as it is, and valid but an empty one.
        """
        words = well_formed(response).split()
        reply = " ".join(words)
        known = view.admissible_actions
        if known is None or not words:
            return ParsedAction(action=reply, valid=bool(words), problem="" if words else "empty")
        if words[0] == "search" and SEARCH_OFFER in known:
            query = " ".join(words[1:] or wanted_words(view.instruction))
            return ParsedAction(action=f"search[{query}]", valid=bool(query), problem="" if query else "empty query")
        page = read_page(view.observation, known)
        meant = next((action for action in known if " ".join(_compact_action(action, page)) == reply), "")
        return ParsedAction(action=meant or reply, valid=bool(meant), problem="" if meant else "not admissible")

    def write_reply(self, action: str, view: TurnView) -> str:
        """The reply that means an action, for demonstrations."""
        if action == f"search[{' '.join(wanted_words(view.instruction))}]":
            return "search"
        return " ".join(_compact_action(action, read_page(view.observation, view.admissible_actions or ())))


def webshop_markers() -> tuple[str, ...]:
    """The markers and fixed words that the compact template writes, for a tokenizer's vocabulary."""
    numbers = (str(number) for number in range(_HIGHEST_NUMBER + 1))
    return (*CompactWebShopPrompt.markers, *_OWN_WORDS, *numbers)


def _dollars(price: float) -> str:
    return str(math.ceil(price))


def _compact_action(action: str, page: Page) -> list[str]:
    """The words of an action: a product is its place on the page."""
    searched = _SEARCH.fullmatch(action)
    if searched:
        return ["search", *words_of(searched[1])]
    clicked = _CLICK.fullmatch(action)
    if not clicked:
        return list(words_of(action))
    for place, offer in enumerate(page.offers, start=1):
        if offer.asin.lower() == clicked[1]:
            return ["click", str(place)]
    return ["click", *_WORD.findall(clicked[1])]


def _compact_turns(view: TurnView, num_turns: int) -> list[list[str]]:
    """The action of each of the last turns; a search without its words."""
    turns = []
    for observation, action in view.history[max(0, len(view.history) - num_turns) :]:
        words = _compact_action(action, read_page(observation, ()))
        turns.append(words[:1] if words[:1] == ["search"] else words[:_LONGEST_ACTION])
    return turns


def _said(observation: str, page: Page, wanted: frozenset[str]) -> str:
    """The page's words that the instruction names."""
    if page.kind == "results":
        return f"page {page.number}"
    if page.kind == "item":
        return " ".join(_named(page.title, page.price_tag, wanted))
    return " ".join(dict.fromkeys(word for word in words_of(observation) if word in wanted))


def _named(title: str, price_tag: str, wanted: frozenset[str]) -> list[str]:
    """The words of a title that the instruction names, and the price."""
    words = dict.fromkeys(word for word in words_of(title) if word in wanted)
    return [*words, _dollars(highest_price(price_tag))]


def _compact_offer(view: TurnView, page: Page, wanted: frozenset[str], mark_tried: bool) -> list[str]:
    """Available actions: products and options not chosen yet, buttons, then those chosen before."""
    tried = _tried(view, page) if mark_tried else frozenset()
    new: list[str] = []
    buttons: list[str] = []
    old: list[str] = []
    products = {offer.asin.lower(): offer for offer in page.offers}
    for action in view.admissible_actions or ():
        clicked = _CLICK.fullmatch(action)
        if not clicked:
            buttons += words_of(action.split("[")[0])
        elif clicked[1] in products:
            product = products[clicked[1]]
            named = _named(product.title, product.price_tag, wanted)
            (old if action in tried else new).extend((ITEM, *_compact_action(action, page)[1:], *named))
        elif clicked[1] not in BUTTONS:
            (old if action in tried else new).extend(_WORD.findall(clicked[1]))
        elif clicked[1] not in _NOT_OFFERED_COMPACT:
            buttons += _WORD.findall(clicked[1])
    return [*new, *buttons, *((TRIED, *old) if old else ())]


def _tried(view: TurnView, page: Page) -> frozenset[str]:
    """Products seen in this episode, or this item's chosen options."""
    if page.kind == "results":
        return frozenset(action for _, action in view.history)
    chosen: dict[str, str] = {}
    for observation, action in view.history:
        if read_page(observation, ()).kind == "results":
            chosen = {}
        for name, values in page.options.items():
            if action in (f"click[{value}]" for value in values):
                chosen[name] = action
    return frozenset(chosen.values())
