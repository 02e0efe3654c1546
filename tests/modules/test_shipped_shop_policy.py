"""The tiny shopper that is shipped: what configs/webshop/warm_start.yaml made."""

from pathlib import Path

import pytest
import torch

from gigpo_lightning.environments.webshop import Product, webshop_words
from gigpo_lightning.environments.webshop.pages import results_page
from gigpo_lightning.prompts.base import TurnView
from gigpo_lightning.prompts.webshop import CompactWebShopPrompt, webshop_markers
from modules import Policy, PretrainedPolicy
from tests.prompts.shop_pages import CHOSEN, FIRST, FOUND, turn


@pytest.fixture(scope="module")
def folder(repository_root: Path) -> Path:
    return repository_root / "configs" / "webshop" / "tiny_policy"


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return PretrainedPolicy(str(folder)).build().eval()


def make_product(asin: str, title: str, price_tag: str) -> Product:
    return Product(
        asin=asin,
        title=title,
        description="",
        bullets=(),
        price_tag=price_tag,
        prices=(19.99,),
        options={},
        attributes=(),
        category="fashion",
        query="rain jackets",
        product_category="Clothing",
    )


def reply(policy: Policy, view: TurnView) -> str:
    """The most likely reply."""
    ids = list(CompactWebShopPrompt().encode(view, policy.tokenizer, 240).ids)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + 6 and ids[-1] != policy.tokenizer.end_token_id:
            ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return policy.tokenizer.decode(ids[start:])


def test_it_is_small_enough_to_ship(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1 << 20


def test_it_knows_every_word_and_marker(policy: Policy) -> None:
    words = (*webshop_words(), *webshop_markers())
    assert [word for word in words if policy.tokenizer.is_unknown(word)] == []


def test_it_begins_with_a_search(policy: Policy) -> None:
    assert reply(policy, FIRST) == "search"


def test_it_opens_a_product_that_is_there(policy: Policy) -> None:
    products = [(f"B{number:09d}", "Alder Slim Fit Daily Wear Rain Jackets", "$19.99") for number in range(1, 11)]
    page = results_page([make_product(*each) for each in products], 1, 50)
    offered = tuple(f"click[{text}]" for text in page.clickables)
    view = turn(page.text, offered, *FOUND.history)
    assert CompactWebShopPrompt().parse(reply(policy, view), view).action.startswith("click[b00000")


def test_it_does_something_with_an_item_that_can_be_done(policy: Policy) -> None:
    assert CompactWebShopPrompt().parse(reply(policy, CHOSEN), CHOSEN).valid
