"""The expert, page by page."""

from collections.abc import Sequence

import pytest

from gigpo_lightning.environments.demonstrations import Expert
from gigpo_lightning.environments.webshop.expert import ShoppingExpert
from tests.prompts.shop_pages import (
    FEATURES,
    INDEX,
    INSTRUCTION,
    ITEM,
    ON_FEATURES,
    ON_INDEX,
    ON_ITEM,
    ON_RESULTS,
    QUERY,
    RESULTS,
)

LACKING = ITEM.replace("'blue' [SEP] ", "")
ON_LACKING = tuple(action for action in ON_ITEM if action != "click[blue]")


def begin(instruction: str = INSTRUCTION) -> ShoppingExpert:
    expert = ShoppingExpert()
    expert.reset(instruction, INDEX)
    return expert


def follow(expert: ShoppingExpert, pages: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """The expert's advice on each page, when it is always followed."""
    advice = []
    for observation, actions in pages:
        advice.append(expert.act(observation, actions))
        expert.observe(advice[-1])
    return advice


def test_it_searches_opens_chooses_and_buys() -> None:
    item = (ITEM, ON_ITEM)
    advice = follow(begin(), [(INDEX, ON_INDEX), (RESULTS, ON_RESULTS), item, item, item])
    assert advice == [QUERY, "click[b000000002]", "click[blue]", "click[small]", "click[buy now]"]


def test_it_is_an_expert_for_demonstrations() -> None:
    assert isinstance(ShoppingExpert(), Expert)


def test_what_is_too_dear_is_not_opened() -> None:
    expert = begin(INSTRUCTION.replace("50.00", "40.00"))
    assert expert.act(RESULTS, ON_RESULTS) == "click[b000000001]"


def test_what_costs_just_the_limit_is_opened() -> None:
    expert = begin(INSTRUCTION.replace("50.00", "45.50"))
    assert expert.act(RESULTS, ON_RESULTS) == "click[b000000002]"


def test_of_equals_the_first_is_opened() -> None:
    assert begin("Find me rain jackets").act(RESULTS, ON_RESULTS) == "click[b000000001]"


def test_an_item_that_lacks_what_is_asked_for_is_left_for_the_next() -> None:
    advice = follow(begin(), [(RESULTS, ON_RESULTS), (LACKING, ON_LACKING), (RESULTS, ON_RESULTS)])
    assert advice == ["click[b000000002]", "click[< prev]", "click[b000000001]"]


def test_where_no_product_is_left_it_turns_the_page() -> None:
    pages = [(RESULTS, ON_RESULTS), (LACKING, ON_LACKING)] * 2
    assert follow(begin(), [*pages, (RESULTS, ON_RESULTS)])[-1] == "click[next >]"


def test_on_the_last_page_it_buys_the_best_that_there_is() -> None:
    third = (RESULTS.replace("Page 1", "Page 3"), ON_RESULTS)
    lacking = (LACKING, ON_LACKING)
    advice = follow(begin(), [third, lacking, third, lacking, third, lacking, lacking])
    assert advice[-3:] == ["click[b000000002]", "click[small]", "click[buy now]"]


def test_a_page_without_products_leads_back_to_the_search_bar() -> None:
    empty = "'Back to Search' [SEP] 'Page 6 (Total results: 50)' [SEP] '< Prev' [SEP] 'Next >'"
    offered = ("click[back to search]", "click[< prev]", "click[next >]")
    assert begin().act(empty, offered) == "click[back to search]"


def test_a_detour_that_chooses_something_else_is_mended() -> None:
    expert = begin()
    for action in ("click[blue]", "click[red]"):
        expert.act(ITEM, ON_ITEM)
        expert.observe(action)
    assert expert.act(ITEM, ON_ITEM) == "click[blue]"


def test_another_item_starts_with_nothing_chosen() -> None:
    expert = begin()
    for observation, offered, action in (
        (ITEM, ON_ITEM, "click[blue]"),
        (ITEM, ON_ITEM, "click[< prev]"),
        (RESULTS, ON_RESULTS, "click[b000000002]"),
    ):
        expert.act(observation, offered)
        expert.observe(action)
    assert expert.act(ITEM, ON_ITEM) == "click[blue]"


def test_what_is_told_about_an_item_is_left_again() -> None:
    assert begin().act(FEATURES, ON_FEATURES) == "click[< prev]"


def test_the_next_episode_starts_without_memories() -> None:
    expert = begin()
    follow(expert, [(RESULTS, ON_RESULTS)])
    expert.reset(INSTRUCTION, INDEX)
    assert expert.act(RESULTS, ON_RESULTS) == "click[b000000002]"


def test_no_action_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="admissible_actions must hold at least one action"):
        begin().act(INDEX, ())
