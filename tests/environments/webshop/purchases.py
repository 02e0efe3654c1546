"""Products, goals and purchases for the tests of rewards."""

from typing import Any

from gigpo_lightning.environments.webshop.reward import Reward, shopping_reward
from gigpo_lightning.environments.webshop.types import Goal, Product


def words(title: str) -> tuple[str, ...]:
    return tuple(title.lower().split())


def a_product(**changed: Any) -> Product:
    fields: dict[str, Any] = {
        "asin": "B000000001",
        "title": "tea",
        "description": "",
        "bullets": (),
        "price_tag": "$35.0",
        "prices": (35.0,),
        "options": {},
        "attributes": (),
        "category": "beauty",
        "query": "teas",
        "product_category": "Food › Drinks › Tea",
    }
    return Product(**fields | changed)


def a_goal(**changed: Any) -> Goal:
    fields: dict[str, Any] = {
        "instruction": "find me tea",
        "asin": "B000000001",
        "title": "tea",
        "attributes": (),
        "options": (),
        "price_upper": 40.0,
        "category": "beauty",
        "query": "teas",
        "product_category": "Food › Drinks › Tea",
    }
    return Goal(**fields | changed)


def bought(product: Product, goal: Goal, chosen: dict[str, str] | None = None, price: float = 35.0) -> Reward:
    return shopping_reward(product, price, chosen or {}, goal, words)


def attribute_hits(wanted: tuple[str, ...], **has: Any) -> int:
    return bought(a_product(**has), a_goal(attributes=wanted)).attribute_hits


def option_hits(chosen: tuple[str, ...], wanted: tuple[Any, ...]) -> int:
    return bought(a_product(), a_goal(options=wanted), {str(i): one for i, one in enumerate(chosen)}).option_hits
