"""What the original's own tests expect of its rewards, and what the rules say of the real products."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product as combinations
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.webshop.colours import plain_colour
from gigpo_lightning.environments.webshop.nouns import PlainNouns
from gigpo_lightning.environments.webshop.reward import shopping_reward
from gigpo_lightning.environments.webshop.types import Goal, Product
from tests.environments.webshop.purchases import a_goal, a_product, attribute_hits, bought, option_hits

SNEAKER = "Mens D.O.N. Issue 2 Gca Basketball Sneakers Shoes Casual - Off White"
SHORT_CORD = "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar"
CORD = "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home Theater System"
TEA = ("tea tree", "essential oils", "natural ingredients")


# The cases of the original's own tests, and what it expects of them.


@pytest.mark.parametrize(
    ("category", "match"),
    [
        ("a › b › c", True),
        ("b › c › a", True),
        ("d › e › f", False),
        ("a › d › b", True),
        ("a › a › b", True),
        ("a › a › d", False),
    ],
)
def test_two_shared_parts_make_a_category(category: str, match: bool) -> None:
    reward = bought(a_product(product_category=category, query="Query 2"), a_goal(product_category="a › b › c"))
    assert (reward.category_match, reward.query_match) == (match, False)


@pytest.mark.parametrize(
    ("has", "hits"),
    [
        ({"attributes": ("tea tree", "essential oil", "natural ingredients")}, 3),
        ({"attributes": ("essential oil", "natural ingredients")}, 2),
        (
            {
                "bullets": ("This shampoo has essential oils and smells like lemons",),
                "description": "Best shampoo on the market, made with natural ingredients",
            },
            2,
        ),
        (
            {
                "attributes": ("tea bag", "earl gray", "lipton"),
                "title": "English tea for breakfast",
                "bullets": ("Soothing aroma", "Calming, great feeling"),
                "description": "Best tea made by Lipton, great to pair with breakfast",
            },
            0,
        ),
    ],
)
def test_attributes_as_the_original_tests_them(has: dict[str, Any], hits: int) -> None:
    assert attribute_hits(TEA, **has) == hits


@pytest.mark.parametrize(
    ("chosen", "wanted", "hits"),
    [
        (("pack of 12", "grey", "XL"), ("grey", "XL", "pack of 12"), 3),
        (("pack of 12", "blue", "XL"), ("grey", "XL", "pack of 12"), 2),
        (("pack of 12", "powder snow", "XL"), ("cool powder snow", "XL", "pack of 12"), 3),
        (("goal 1", "goal 2"), (), 0),
        ((), ("goal 1", "goal 2"), 0),
    ],
)
def test_options_as_the_original_tests_them(chosen: tuple[str, ...], wanted: tuple[str, ...], hits: int) -> None:
    assert option_hits(chosen, wanted) == hits


def test_rewards_as_the_original_tests_them() -> None:
    chosen = {"color": "grey", "size": "XL"}
    goal = a_goal(title=SNEAKER, attributes=TEA, options=tuple(chosen.items()))
    product = a_product(title=SNEAKER, attributes=("tea tree", "essential oil", "natural ingredients"))
    assert shopping_reward(product, 35.0, chosen, goal, PlainNouns()).total == 1.0

    product = a_product(
        title=SNEAKER,
        bullets=tuple("This shampoo has essential oils and smells like lemons"),  # joined letter by letter, as there
        description="Best shampoo on the market, made with natural ingredients",
    )
    # The original's product has no title to look in, apart from its name.
    assert shopping_reward(product, 35.0, chosen, goal, PlainNouns()).total == pytest.approx(2 / 3)

    goal = replace(goal, options=(*goal.options, ("amount", "pack of 12")))
    assert shopping_reward(product, 35.0, chosen, goal, PlainNouns()).total == pytest.approx(0.5714, abs=1e-4)

    goal = replace(goal, title=SHORT_CORD)
    product = replace(product, title=CORD, query="Query 2", product_category="Food › d › e")
    assert shopping_reward(product, 35.0, chosen, goal, PlainNouns()).total == pytest.approx(0.2857, abs=1e-4)


# On the real products.


def real_goals(folder: Path) -> Iterator[tuple[Product, Goal]]:
    asked = json.loads((folder / "items_ins_v2_1000.json").read_text(encoding="utf-8"))
    for entry in json.loads((folder / "items_shuffle_1000.json").read_text(encoding="utf-8")):
        about = asked[entry["asin"]]
        if not about.get("instruction"):
            continue
        options = {
            name.lower(): [one["value"].strip().replace("/", " | ").lower() for one in values]
            for name, values in (entry["customization_options"] or {}).items()
            if values is not None
        }
        shelf = {"query": entry["query"], "product_category": entry["product_category"], "title": entry["name"]}
        attributes, wanted = tuple(about["attributes"]), tuple(about["instruction_attributes"])
        for values in combinations(*(options[name] for name in sorted(options))):
            pairs = tuple(zip(sorted(options), values, strict=True))
            yield a_product(attributes=attributes, **shelf), a_goal(attributes=wanted, options=pairs, **shelf)


@pytest.fixture(scope="module")
def targets(shared_data: Path) -> list[tuple[Product, Goal]]:
    if not (shared_data / "webshop" / "items_shuffle_1000.json").is_file():
        pytest.skip(f"needs the 1000 products in {shared_data / 'webshop'}")
    return list(real_goals(shared_data / "webshop"))


def plainly_chosen(goal: Goal) -> dict[str, str]:
    return {pair[0]: pair[1] for pair in goal.options if isinstance(pair, tuple)}


def loses_its_word(pair: tuple[str, str]) -> bool:
    """Whether the colour that a value is taken for is no word of the pair as Python writes it."""
    colour = plain_colour(pair[1])
    return colour != pair[1] and colour not in re.findall(r"[a-z0-9]+", str(pair))


def test_a_real_target_is_worth_one_unless_a_value_hides_a_colour(targets: list[tuple[Product, Goal]]) -> None:
    missed = 0
    for product, goal in targets:
        chosen = plainly_chosen(goal)
        reward = shopping_reward(product, 35.0, chosen, goal, PlainNouns())
        assert (reward.r_type, reward.attribute_hits) == (1.0, reward.num_attributes)
        assert (reward.total < 1) == any(loses_its_word(pair) for pair in chosen.items()), goal.options
        missed += reward.total < 1
    assert (len(targets), missed) == (6910, 458)


def test_a_real_target_is_worth_one_to_a_human_who_wants_the_same(targets: list[tuple[Product, Goal]]) -> None:
    for product, goal in targets[::7]:
        chosen = plainly_chosen(goal)
        wish = replace(goal, options=tuple(chosen.values()))
        assert shopping_reward(product, 35.0, chosen, wish, PlainNouns()).total == 1.0, wish.options
