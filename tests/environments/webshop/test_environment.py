"""The state machine of the shop, click by click."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.webshop import Catalogue, Goal, WebShopEnvironment, webshop_panel
from gigpo_lightning.environments.webshop.nouns import PlainNouns
from tests.environments.webshop.official import ATTRIBUTES, PRODUCTS, choice, entry, write

CHAIR, LAMP = "B000000001", "B000000003"
INDEX = "'Search'"


def chair_task(catalogue: Catalogue) -> Task:
    """A small blue chair of solid wood."""
    (goal,) = [goal for goal in catalogue.goals if goal.options == (("color", "blue"), ("size", "small"))]
    return Task(task_id="chair", kind="garden", payload={"goal": goal})


@pytest.fixture
def environment(shop):
    return WebShopEnvironment(shop, nouns=PlainNouns())


def play(environment: WebShopEnvironment, *actions: str, task: Task | None = None) -> tuple:
    """Everything that the last of some actions gave."""
    outcome = environment.reset(options={"task": task or chair_task(environment.catalogue)})
    for action in actions:
        outcome = environment.step(action)
    return outcome


def page(environment: WebShopEnvironment, *actions: str) -> str:
    return play(environment, *actions)[0]


def test_an_episode_begins_at_the_search_bar(environment):
    observation, info = play(environment)
    assert observation == info["anchor"] == INDEX
    assert info["admissible_actions"] == ("search[<your query>]",)
    assert info["instruction"].startswith(
        "Find me solid wood chairs with color: blue, and size: small, and price lower"
    )
    assert (info["success"], info["metrics"]) == (False, {"score": 0.0})


def test_buying_what_fits_in_everything_is_a_success(environment):
    way = ("search[oak chair]", f"click[{CHAIR}]", "click[blue]", "click[small]", "click[Buy Now]")
    observation, reward, terminated, truncated, info = play(environment, *way)
    assert (reward, terminated, truncated) == (10.0, True, False)
    assert (info["success"], info["metrics"]) == (True, {"score": 1.0})
    assert info["admissible_actions"] == ()
    assert observation.endswith("'1.0'")


def test_buying_what_fits_in_part_scores_and_is_not_rewarded(environment):
    way = ("search[oak chair]", f"click[{CHAIR}]", "click[red | white]", "click[small]", "click[buy now]")
    _, reward, terminated, _, info = play(environment, *way)
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["metrics"] == {"score": pytest.approx(3 / 4)}  # attribute, size and price of four


def test_the_success_reward_is_a_setting(shop):
    environment = WebShopEnvironment(shop, nouns=PlainNouns(), success_reward=1.0)
    way = ("search[oak chair]", f"click[{CHAIR}]", "click[blue]", "click[small]", "click[Buy Now]")
    assert play(environment, *way)[1] == 1.0


def test_a_search_is_possible_on_every_page(environment):
    lamps = page(environment, "search[lamp]")
    assert "'B000000003'" in lamps
    assert page(environment, "search[chair]", f"click[{CHAIR}]", "click[features]", "search[lamp]") == lamps


@pytest.mark.parametrize(
    "action", ["", "search", "search[]", "click[]", "buy[chair]", "click[search]", "click[nothing]"]
)
def test_what_cannot_be_done_changes_nothing(environment, action):
    for way in ((), ("search[lamp]",), ("search[chair]", f"click[{CHAIR}]", "click[description]")):
        before = play(environment, *way)
        after = environment.step(action)
        assert after[0] == before[0]
        assert after[-1]["anchor"] == before[-1]["anchor"]
        assert after[1:4] == (0.0, False, False)


def test_an_action_may_go_on_after_its_bracket_but_not_over_a_line(environment):
    assert page(environment, "search[lamp] please") == page(environment, "search[lamp]")
    assert page(environment, "search[la\nmp]") == INDEX
    assert page(environment, "I will search[lamp]") == INDEX


def test_words_are_searched_for_in_lower_case(environment):
    assert page(environment, "search[LAMP]") == page(environment, "search[lamp]")
    assert "Total results: 2" in page(environment, "search[LAMP]")


@pytest.mark.parametrize("prefix", ["<r>", "<a>", "<c>", "<q>"])
def test_the_hidden_prefixes_are_ordinary_text(environment, prefix):
    assert "(Total results: 0)" in page(environment, f"search[{prefix}]")
    assert page(environment, f"search[{prefix} lamp]") == page(environment, "search[lamp]")


def test_pages_of_results_go_on_for_ever_and_back_to_the_first(environment):
    first = page(environment, "search[lamp]")
    second = page(environment, "search[lamp]", "click[next >]")
    assert second == "'Back to Search' [SEP] 'Page 2 (Total results: 2)' [SEP] '< Prev' [SEP] 'Next >'"
    assert page(environment, "search[lamp]", *["click[next >]"] * 3, *["click[< prev]"] * 3) == first
    assert page(environment, "search[lamp]", "click[< prev]") == first


def test_back_from_a_product_goes_to_the_page_of_results_it_was_on(environment):
    results = page(environment, "search[chair lamp]")
    assert page(environment, "search[chair lamp]", f"click[{LAMP}]", "click[< prev]") == results
    way = ("search[chair lamp]", f"click[{LAMP}]", "click[features]", "click[< prev]")
    assert page(environment, *way) == page(environment, "search[chair lamp]", f"click[{LAMP}]")


def test_back_to_search_forgets_everything(shop):
    environment = WebShopEnvironment(shop, anchor="state")
    way = ("search[chair]", f"click[{CHAIR}]", "click[blue]", "click[back to search]")
    assert play(environment, *way)[-1]["anchor"] == play(environment)[1]["anchor"]


def test_options_are_kept_on_sub_pages_and_lost_on_the_way_back(environment):
    chosen = ("search[chair]", f"click[{CHAIR}]", "click[blue]", "click[small]")
    bought = ("click[buy now]",)
    assert play(environment, *chosen, "click[reviews]", "click[< prev]", *bought)[-1]["success"]
    assert not play(environment, *chosen, "click[< prev]", f"click[{CHAIR}]", *bought)[-1]["success"]


def test_an_option_is_chosen_once_and_the_last_choice_counts(environment):
    way = ("search[chair]", f"click[{CHAIR}]", "click[large]", "click[small]", "click[blue]", "click[buy now]")
    assert play(environment, *way)[-1]["success"]


def test_pages_do_not_show_choices_but_the_state_does(shop):
    way = ("search[chair]", f"click[{CHAIR}]")
    by_page, by_state = (WebShopEnvironment(shop, anchor=anchor) for anchor in ("observation", "state"))
    for environment, same in ((by_page, True), (by_state, False)):
        before, after = play(environment, *way), play(environment, *way, "click[blue]")
        assert before[0] == after[0]
        assert (before[-1]["anchor"] == after[-1]["anchor"]) is same
    one = play(by_state, *way, "click[blue]", "click[small]")[-1]["anchor"]
    other = play(by_state, *way, "click[small]", "click[large]", "click[small]", "click[blue]")[-1]["anchor"]
    assert one == other  # whatever way led there


def test_the_state_tells_searches_apart_that_list_the_same(shop):
    environment = WebShopEnvironment(shop, anchor="state")
    one, other = play(environment, "search[steel]"), play(environment, "search[steel steel]")
    assert one[0] == other[0]
    assert one[-1]["anchor"] != other[-1]["anchor"]


@pytest.fixture
def odd(tmp_path):
    """A shop whose options are called like buttons, and like each other."""
    options = {"Tone": choice("Red", "Buy Now", "Description", "< Prev", "Next >"), "Trim": choice("Red", "Search")}
    products = [entry(CHAIR, name="Odd Chair", customization_options=options), *PRODUCTS[1:]]
    return WebShopEnvironment(Catalogue.load(**write(tmp_path, products)), anchor="state", nouns=PlainNouns())


def test_an_option_called_like_a_button_is_shadowed_by_it(odd):
    goal = replace(odd.catalogue.goals[0], options=(("tone", "next >"),))
    task = Task(task_id="odd", kind="garden", payload={"goal": goal})
    item = ("search[odd]", f"click[{CHAIR}]")
    assert play(odd, *item, "click[buy now]", task=task)[2]  # a purchase
    assert play(odd, *item, "click[description]", task=task)[0] == "'Back to Search' [SEP] '< Prev'"
    assert play(odd, *item, "click[< prev]", task=task)[0] == play(odd, "search[odd]", task=task)[0]
    assert play(odd, *item, "click[search]", task=task)[-1] == play(odd, *item, task=task)[-1]
    # Only pages of results go on: here the word is an option's.
    assert '["tone", "next >"]' in play(odd, *item, "click[next >]", task=task)[-1]["anchor"]


def test_of_two_options_with_one_value_the_later_owns_the_click(odd):
    goal = replace(odd.catalogue.goals[0], options=())
    task = Task(task_id="odd", kind="garden", payload={"goal": goal})
    anchor = play(odd, "search[odd]", f"click[{CHAIR}]", "click[red]", task=task)[-1]["anchor"]
    assert '[["trim", "red"]]' in anchor


def test_it_keeps_the_rules_of_an_environment(environment):
    for task in webshop_panel(environment.catalogue, "train").tasks:
        check_environment(environment, task, num_steps=20)


def test_copies_share_the_catalogue(environment):
    for other in (copy.deepcopy(environment), pickle.loads(pickle.dumps(environment))):
        assert other.catalogue.shelves is environment.catalogue.shelves


def test_tasks_of_another_shop_are_refused(shop):
    other = Catalogue(*shop._files, price_seed=1)
    task = webshop_panel(other, "train").tasks[0]
    with pytest.raises(ValueError, match="catalogue must be the one that the tasks come from"):
        WebShopEnvironment(shop).reset(options={"task": task})


@pytest.mark.parametrize("options", [None, {}, {"task": Task(task_id="a", kind="b")}])
def test_a_reset_without_a_goal_is_refused(environment, options):
    with pytest.raises(ValueError, match="options must have a 'task' whose payload has a 'goal'"):
        environment.reset(options=options)


def test_unknown_anchors_and_schemes_are_refused():
    # in a process of its own: here the types are checked first
    code = """
from gigpo_lightning.environments.webshop import Catalogue, WebShopEnvironment, webshop_panel
catalogue = Catalogue("products.json", "attributes.json")
for call in (lambda: WebShopEnvironment(catalogue, anchor="page"), lambda: webshop_panel(catalogue, "train", "mine")):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "anchor must be 'observation' or 'state', got 'page'",
        "scheme must be 'by_product' or 'verl_agent', got 'mine'",
    ]


def test_a_missing_catalogue_is_one_clear_error(tmp_path):
    environment = WebShopEnvironment(Catalogue(tmp_path / "products.json", tmp_path / "attributes.json"))
    goal = Goal(
        **dict.fromkeys(("instruction", "asin", "title", "category", "query", "product_category"), ""),
        **{"attributes": (), "options": (), "price_upper": 1.0},
    )
    with pytest.raises(ValueError, match=r"attributes.json|products.json must be a JSON file, but cannot be read"):
        environment.reset(options={"task": Task(task_id="a", kind="b", payload={"goal": goal})})


words = st.sampled_from(["lamp", "chair oak", "<r>", "nothing", "steel brass pine"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example resets it
@given(st.data())
def test_whatever_is_clicked_the_shop_stays_consistent(shop, data):
    environment = WebShopEnvironment(shop, anchor="state", nouns=PlainNouns())
    task = chair_task(environment.catalogue)
    observation, info = environment.reset(options={"task": task})
    searched = False
    for _ in range(data.draw(st.integers(0, 12))):
        offered = [action for action in info["admissible_actions"] if action.startswith("click")]
        action = data.draw(st.sampled_from([*offered, "nonsense"]) | words.map("search[{}]".format))
        before = info["anchor"]
        observation, reward, terminated, _, info = environment.step(action)
        searched |= action.startswith("search")
        if terminated:
            assert searched
            assert action == "click[buy now]"
            assert (reward == 10.0) == info["success"] == (info["metrics"]["score"] == 1.0)
            return
        assert reward == 0.0
        if action == "nonsense":
            assert info["anchor"] == before
        if action == "click[back to search]":
            assert observation == INDEX
        assert len(set(info["admissible_actions"])) == len(info["admissible_actions"])
        assert info["anchor"].startswith(observation)


def test_attributes_of_products_take_part_in_the_reward(environment):
    assert ATTRIBUTES[LAMP]["attributes"] == ["energy saving"]
    (goal,) = [goal for goal in environment.catalogue.goals if goal.asin == LAMP]
    task = Task(task_id="lamp", kind="garden", payload={"goal": goal})
    assert play(environment, "search[steel]", f"click[{LAMP}]", "click[buy now]", task=task)[-1]["success"]


@pytest.mark.slow
def test_the_benchmark_shops_in_a_shop_of_its_own(repository_root):
    script = [sys.executable, str(repository_root / "benchmarks" / "webshop.py"), "--steps", "2000", "--large", "500"]
    result = subprocess.run(script, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count("steps/s") == 2
    assert "26 % of the steps" in result.stderr
    assert "search of 500: median" in result.stderr
