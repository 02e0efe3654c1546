"""The expert: page by page, in a generated shop, and among the official products."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from gigpo_lightning.demonstrations import Expert
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.webshop import (
    Catalogue,
    ShoppingExpert,
    ShopSettings,
    WebShopEnvironment,
    WebShopTasks,
    webshop_words,
)
from gigpo_lightning.environments.webshop.offline.generator import catalogue_files
from gigpo_lightning.prompts.base import ParsedAction, TurnView
from gigpo_lightning.prompts.webshop import CompactWebShopPrompt, webshop_markers
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


def test_a_detour_to_a_later_page_is_gone_back_from() -> None:
    worse = "'Back to Search' [SEP] 'Page 2 (Total results: 50)' [SEP] '< Prev' [SEP] 'Next >' [SEP] "
    worse += "'B000000009' [SEP] 'Alder Rain Jackets' [SEP] '$19.99'"
    offered = ("click[back to search]", "click[< prev]", "click[next >]", "click[b000000009]")
    expert = begin()
    expert.act(RESULTS, ON_RESULTS)
    expert.observe("click[next >]")
    assert expert.act(worse, offered) == "click[< prev]"


def test_another_search_makes_what_was_seen_worthless() -> None:
    worse = "'Back to Search' [SEP] 'Page 1 (Total results: 1)' [SEP] 'Next >' [SEP] "
    worse += "'B000000009' [SEP] 'Alder Rain Jackets' [SEP] '$19.99'"
    expert = begin()
    expert.act(RESULTS, ON_RESULTS)
    expert.observe("search[rain]")
    assert expert.act(worse, ("click[back to search]", "click[next >]", "click[b000000009]")) == "click[b000000009]"


def test_on_the_last_page_it_buys_the_best_that_there_is() -> None:
    third = (RESULTS.replace("Page 1", "Page 3"), ON_RESULTS)
    lacking = (LACKING, ON_LACKING)
    advice = follow(begin(), [third, lacking, third, lacking, third, lacking, lacking])
    assert advice[-3:] == ["click[b000000002]", "click[small]", "click[buy now]"]


def test_a_page_without_products_leads_back_to_the_search_bar() -> None:
    empty = "'Back to Search' [SEP] 'Page 6 (Total results: 50)' [SEP] '< Prev' [SEP] 'Next >'"
    offered = ("click[back to search]", "click[< prev]", "click[next >]")
    assert begin().act(empty, offered) == "click[back to search]"


def test_a_detour_to_what_fits_worse_is_gone_back_from() -> None:
    worse = ITEM.replace("Elvet's Daily Wear Slim Fit", "Alder Slim Fit").replace("$29.99 to $45.5", "$19.99")
    expert = begin()
    expert.act(RESULTS, ON_RESULTS)
    expert.observe("click[b000000001]")
    assert expert.act(worse, ON_ITEM) == "click[< prev]"


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


def play(environment: WebShopEnvironment, task: Task, detours: float, max_steps: int) -> tuple[float, set[str]]:
    """The score, and every word of the prompts and replies of an episode."""
    rng, expert, prompt, tokenizer = random.Random(task.task_id), ShoppingExpert(), CompactWebShopPrompt(), Words()
    observation, info = environment.reset(options={"task": task})
    instruction, history, terminated = info["instruction"], [], False
    expert.reset(instruction, observation)
    while not terminated and len(history) < max_steps:
        offered = info["admissible_actions"]
        view = TurnView(
            instruction=instruction, observation=observation, admissible_actions=offered, history=tuple(history)
        )
        prompt.encode(view, tokenizer, 200)
        action = expert.act(observation, offered)
        reply = prompt.write_reply(action, view)
        tokenizer.encode(reply)
        assert prompt.parse(reply, view) == ParsedAction(action=action, valid=True)
        if rng.random() < detours:
            action = rng.choice([each for each in offered if each != "click[buy now]"])
        expert.observe(action)
        history.append((observation, action))
        observation, _, terminated, _, info = environment.step(action)
    return info["metrics"]["score"], tokenizer.met


class Words:
    """A tokenizer that remembers what it was given."""

    stop_token_ids = ()

    def __init__(self) -> None:
        self.met: set[str] = set()

    def encode(self, text: str) -> list[int]:
        self.met |= set(text.split())
        return [0] * len(text.split())

    def as_text(self, text: str, markers: object = ()) -> str:
        return text

    def encode_chat(self, messages: object, **_: object) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: object) -> str:
        raise NotImplementedError


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> WebShopTasks:
    folder = tmp_path_factory.mktemp("shop") / "shop"
    products, attributes = catalogue_files(folder)
    tasks = WebShopTasks(Catalogue(products, attributes), generated=ShopSettings(num_products=150, seed=7))
    tasks.prepare()
    return tasks


@pytest.mark.parametrize(("detours", "least"), [(0.0, 0.97), (0.3, 0.9)])
def test_it_buys_what_fits_in_a_generated_shop(generated: WebShopTasks, detours: float, least: float) -> None:
    environment = WebShopEnvironment(generated.catalogue)
    tasks = generated.panel("train").tasks[:60]
    scores = [play(environment, task, detours, max_steps=25)[0] for task in tasks]
    assert scores.count(1.0) / len(scores) >= least


def test_a_tiny_policy_needs_no_other_word(generated: WebShopTasks) -> None:
    environment = WebShopEnvironment(generated.catalogue)
    met: set[str] = set()
    for task in generated.panel("train").tasks[:40]:
        met |= play(environment, task, 0.5, max_steps=12)[1]
    assert met <= {*webshop_words(), *webshop_markers()}


def test_it_is_good_at_the_official_products(shared_data: Path) -> None:
    folder = shared_data / "webshop"
    catalogue = Catalogue(folder / "items_shuffle_1000.json", folder / "items_ins_v2_1000.json")
    tasks = WebShopTasks(catalogue).panel("valid").tasks[:100]
    environment, expert = WebShopEnvironment(catalogue), ShoppingExpert()
    wins = 0
    for task in tasks:
        observation, info = environment.reset(options={"task": task})
        expert.reset(info["instruction"], observation)
        for _ in range(15):
            action = expert.act(observation, info["admissible_actions"])
            expert.observe(action)
            observation, _, terminated, _, info = environment.step(action)
            if terminated:
                break
        wins += info["success"]
    assert wins / len(tasks) > 0.8
