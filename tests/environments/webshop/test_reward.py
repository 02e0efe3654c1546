from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from gigpo_lightning.environments.webshop.colours import COLOURS
from gigpo_lightning.environments.webshop.entities import Goal, Product
from gigpo_lightning.environments.webshop.reward import Reward
from tests.environments.webshop.purchases import a_goal, a_product, attribute_hits, bought, option_hits, words

# By hand.


def test_a_reward_is_the_share_of_what_was_asked_for() -> None:
    goal = a_goal(attributes=("organic", "loose leaf"), options=("large", "green"))
    reward = bought(a_product(attributes=("organic",)), goal, {"size": "large"})
    # One of two attributes, one of two options, and the price: 3 of 5.
    assert reward == Reward(
        total=0.6,
        r_type=1.0,
        attribute_hits=1,
        num_attributes=2,
        option_hits=1,
        num_options=2,
        price_ok=True,
        query_match=True,
        category_match=True,
        title_score=1.0,
    )


@pytest.mark.parametrize(("price", "ok"), [(39.99, True), (40.0, True), (40.01, False)])
def test_a_price_may_reach_its_limit(price: float, ok: bool) -> None:
    reward = bought(a_product(), a_goal(attributes=("organic",)), price=price)
    assert (reward.price_ok, reward.total) == (ok, ok / 2)


def test_another_product_with_all_that_was_asked_for_is_worth_one() -> None:
    other = a_product(asin="B000000002", title="green tea", attributes=("organic",))
    assert bought(other, a_goal(attributes=("organic",), options=("large",)), {"size": "large"}).total == 1.0


@pytest.mark.parametrize(
    ("shared", "of", "same_shelf", "r_type"),
    [
        (0, 4, True, 0.0),
        (1, 11, True, 0.1),
        (1, 11, False, 0.1),
        (1, 10, True, 1.0),
        (1, 10, False, 0.5),
        (2, 10, False, 0.5),
        (3, 10, False, 1.0),
        (0, 0, True, 1.0),  # without nouns the score is 0.2
        (0, 0, False, 0.5),
    ],
)
@pytest.mark.parametrize("by", ["query", "product_category"])
def test_the_factor_for_the_kind_of_product(shared: int, of: int, same_shelf: bool, r_type: float, by: str) -> None:
    nouns = [f"noun{number}" for number in range(of)]
    elsewhere = {"query": "coffees", "product_category": "Toys"}
    if same_shelf:
        del elsewhere[by]
    reward = bought(a_product(title=" ".join(["thing", *nouns[:shared]]), **elsewhere), a_goal(title=" ".join(nouns)))
    assert reward.r_type == r_type
    assert reward.total == r_type  # the price is fine and nothing else was asked for


def test_a_title_score_counts_the_repeats_of_the_goal_only() -> None:
    reward = bought(a_product(title="bar bar bar cord"), a_goal(title="bar bar soap soap"))
    assert reward.title_score == 1 / 4


@pytest.mark.parametrize(
    ("letters_apart", "hits"),
    [
        ("abcdefg abcdefh", 1),  # 12 of 14 letters are 85.7 %, in whole numbers 86
        ("abcdefghijklmnopqrstuvw0123 abcdefghijklmnopqrstuvwxyz4", 0),  # 46 of 54 are 85.2 %, in whole numbers 85
    ],
)
def test_the_likeness_is_rounded_before_it_is_judged(letters_apart: str, hits: int) -> None:
    listed, wanted = letters_apart.split()
    assert attribute_hits((wanted,), attributes=(listed,)) == hits


@pytest.mark.parametrize(
    ("listed", "wanted", "hits"),
    [
        ("ñandú", "and", 1),  # Latin letters beyond ASCII are deleted
        ("qğ", "q", 0),  # others stay
        ("Long-Lasting!", "long lasting", 1),
        ("long_lasting", "long lasting", 1),  # 22 of 24 letters; an underscore does not part words
        ("free gluten", "gluten free", 1),
        ("gluten free, vegan", "vegan", 1),
        ("!?", "!?", 0),  # no word is like nothing, not even like itself
    ],
)
def test_words_are_compared_as_sets(listed: str, wanted: str, hits: int) -> None:
    assert attribute_hits((wanted,), attributes=(listed,)) == hits


def test_an_unlisted_attribute_may_stand_in_a_text_letter_for_letter() -> None:
    assert attribute_hits(("tea",), title="STEAM") == 1
    assert attribute_hits(("a b",), bullets=("a", "B")) == 1  # bullets are joined by a space
    assert attribute_hits(("organic",), description="All Organic.") == 1
    assert attribute_hits(("", " "), title="green tea", description="All Organic.") == 0  # nothing is not found
    assert attribute_hits(("Organic",), description="All Organic.") == 0  # the text is lower-cased, the attribute not


# The original's way with options.


@pytest.mark.parametrize(
    ("chosen", "wanted", "hits"),
    [
        ("x-large", "xx-large", 1),
        ("x-large", ("size", "xx-large"), 0),
        ("large", ("size", "x-large"), 1),
        ("blue", ("color", "midnight blue"), 1),
        ("navy blue", "blue sky", 1),  # both are blue
        ("navy blue", ("color", "navy"), 0),  # blue is not navy
        ("color", ("color", "midnight sky"), 1),  # the name is among the words
        ("color", ("color", "blue"), 0),  # but a value that is a colour stands alone
        ("titanium", "tan", 1),
        ("standard", "standard", 1),
        ("standard", ("size", "standard"), 0),  # tan is not among size and standard
        ("two pack", ("gold", "two pack"), 0),  # a name may be a colour, too
        ("8\xa0pack", "8\xa0pack", 1),
        ("8\xa0pack", ("size", "8\xa0pack"), 0),  # Python writes the space of a pair as \xa0
        ("", "", 0),
    ],
)
def test_an_option_is_hit_as_in_the_original(chosen: str, wanted: Any, hits: int) -> None:
    assert option_hits((chosen,), (wanted,)) == hits


def test_one_choice_may_hit_several_wishes_and_a_wish_is_hit_once() -> None:
    assert option_hits(("large",), ("large", "large")) == 2
    assert option_hits(("large", "x-large"), ("large",)) == 1


# Properties.

VOCABULARY = "tea tree oil loose leaf large x-large xx-large small blue navy standard pack 12 café"
WORDS = st.sampled_from(VOCABULARY.split())
phrases = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
several = st.lists(phrases, max_size=4).map(tuple)
choices = st.dictionaries(st.sampled_from(["size", "color", "gold"]), phrases)
paths = st.lists(st.sampled_from("abcd"), max_size=4).map(" › ".join)
shelves = {"title": phrases, "query": st.sampled_from(["teas", "oils"]), "product_category": paths}
# Only the fields: the types are checked where they are made, which draws random numbers.
products = st.fixed_dictionaries({"description": phrases, "bullets": several, "attributes": several, **shelves})
wishes = several | choices.map(lambda some: tuple(some.items()))
goals = st.fixed_dictionaries({"attributes": several, "options": wishes, **shelves})
prices = st.floats(0, 100)


def told_slowly(product: Product, price: float, chosen: dict[str, str], goal: Goal) -> float:
    """The rules once more: nothing remembered, nothing left out."""

    def alike(left: str, right: str) -> bool:
        cleaned = [default_process("".join(c for c in text if not 128 <= ord(c) < 256)) for text in (left, right)]
        return round(fuzz.token_set_ratio(*cleaned)) >= 86

    def coloured(value: Any) -> str:
        for colour in COLOURS:
            if colour in value:
                return colour
        return str(value)

    wanted_nouns, nouns = words(goal.title), words(product.title)
    score = len([noun for noun in set(wanted_nouns) if noun in nouns]) / len(wanted_nouns)
    parts, wanted_parts = product.product_category.split(" › "), goal.product_category.split(" › ")
    factor = 1.0
    if product.query != goal.query and len({p for p in parts if p in wanted_parts}) < 2 and not score > 0.2:
        factor = 0.5
    if score < 0.1:
        factor = 0.1
    if score == 0:
        factor = 0.0
    points = 1 if price <= goal.price_upper else 0
    for attribute in goal.attributes:
        listed = any(alike(one, attribute) for one in product.attributes)
        text = [product.title.lower(), " ".join(product.bullets).lower(), product.description.lower()]
        points += listed or any(attribute in one for one in text)
    for option in goal.options:
        points += any(alike(coloured(value), coloured(option)) for value in chosen.values())
    return factor * (points / (len(goal.attributes) + len(goal.options) + 1))


@given(products, prices, choices, goals)
def test_it_is_what_the_rules_say_told_slowly(
    has: dict[str, Any], price: float, chosen: dict[str, str], asked: dict[str, Any]
) -> None:
    product, goal = a_product(**has), a_goal(**asked)
    reward = bought(product, goal, chosen, price)
    hits = reward.attribute_hits + reward.option_hits + reward.price_ok
    assert reward.total == told_slowly(product, price, chosen, goal)
    assert reward.total == reward.r_type * (hits / (reward.num_attributes + reward.num_options + 1))
    assert 0 <= reward.total <= 1


@given(products, choices.filter(lambda chosen: "gold" not in chosen), st.booleans())
def test_the_goals_own_product_with_its_options_is_worth_one(
    has: dict[str, Any], chosen: dict[str, str], human: bool
) -> None:
    chosen = {name: value.replace("standard", "medium") for name, value in chosen.items()}  # see the table above
    shelf = {name: has[name] for name in shelves}
    options = tuple(chosen.values()) if human else tuple(chosen.items())
    goal = a_goal(attributes=has["attributes"], options=options, **shelf)
    assert bought(a_product(**has), goal, chosen).total == 1.0


@given(products, prices, choices, goals, phrases)
def test_more_never_lowers_the_reward(
    has: dict[str, Any], price: float, chosen: dict[str, str], asked: dict[str, Any], more: str
) -> None:
    product, goal = a_product(**has), a_goal(**asked)
    before = bought(product, goal, chosen, price).total
    assert bought(replace(product, attributes=(*product.attributes, more)), goal, chosen, price).total >= before
    assert bought(replace(product, description=f"{product.description} {more}"), goal, chosen, price).total >= before
    assert bought(product, goal, chosen | {"another": more}, price).total >= before
    assert bought(product, goal, chosen, price / 2).total >= before
