"""Sokoban's rules, rewards and observations, on levels by hand."""

from typing import Any

import pytest

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.sokoban import (
    Level,
    SokobanEnvironment,
    SokobanTasks,
    generate_level,
    sokoban_panel,
    sokoban_symbols,
    sokoban_words,
)
from gigpo_lightning.prompts.text import CompactTextPrompt
from tests.tiny_training import train_tiny_policy

TWO = """
#######
#@-$.-#
#-----#
#-*---#
#######
"""
CORRIDOR = "#####\n#@$.#\n#####"


def begun(level: str, **options: Any) -> tuple[SokobanEnvironment, str, dict[str, Any]]:
    environment = SokobanEnvironment(**options)
    task = Task(task_id="by hand", kind="short", payload={"level": level})
    return environment, *environment.reset(options={"task": task})


def walk(level: str, *moves: str, **options: Any) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    environment, _, _ = begun(level, **options)
    return [environment.step(move) for move in moves]


def test_it_keeps_the_rules_of_environments() -> None:
    for task in sokoban_panel("valid", num_held_out=8).tasks:
        check_environment(SokobanEnvironment(), task)


def test_the_observation_shows_every_symbol() -> None:
    _, observation, _ = begun("######\n#*.$-#\n#-+$-#\n######")
    assert observation == "# # # # # #\n# √ O X _ #\n# _ S X _ #\n# # # # # #"


def test_the_observation_is_the_anchor() -> None:
    environment, observation, info = begun(TWO)
    assert info["anchor"] == observation
    observation, *_, info = environment.step("down")
    assert info["anchor"] == observation


def test_moves_into_walls_are_not_admissible() -> None:
    assert begun(CORRIDOR)[2]["admissible_actions"] == ("right",)


def test_a_box_before_a_box_cannot_be_pushed() -> None:
    assert begun("######\n#@$$-#\n#-..-#\n######")[2]["admissible_actions"] == ("down",)


def test_a_step_costs_a_tenth() -> None:
    assert walk(TWO, "down")[0][1:4] == (-0.1, False, False)


def test_a_box_that_comes_onto_a_target_is_rewarded_and_the_last_one_ends_the_episode() -> None:
    ((observation, reward, terminated, truncated, info),) = walk(CORRIDOR, "right")
    assert observation.splitlines()[1] == "# _ P √ #"
    assert (reward, terminated, truncated, info["success"]) == (pytest.approx(1.0 + 10.0 - 0.1), True, False, True)


def test_a_box_that_leaves_a_target_takes_its_reward_away() -> None:
    *_, (observation, reward, *_, info) = walk(TWO, "down", "down", "right")
    assert observation.splitlines()[3] == "# _ S X _ _ #"
    assert reward == pytest.approx(-1.0 - 0.1)
    assert info["metrics"] == {"boxes_on_target": 0.0}


@pytest.mark.parametrize("action", ["up", "left", "fly", "", "down down", "still"])
def test_walls_and_other_words_change_nothing_and_cost_a_step(action: str) -> None:
    environment, observation, _ = begun(TWO)
    found, reward, terminated, truncated, _ = environment.step(action)
    assert (found, reward, terminated, truncated) == (observation, -0.1, False, False)


@pytest.mark.parametrize("action", ["Right", " RIGHT\n"])
def test_a_moves_case_and_outer_space_do_not_matter(action: str) -> None:
    assert walk(CORRIDOR, action)[0][4]["success"]


def test_an_episode_is_truncated_at_its_last_step() -> None:
    assert [truncated for _, _, _, truncated, _ in walk(TWO, *["up"] * 36)] == [False] * 35 + [True]


def test_a_level_solved_by_its_last_step_is_not_truncated() -> None:
    assert walk(CORRIDOR, "up", "right", max_steps=2)[-1][2:4] == (True, False)


def test_the_rewards_can_be_set() -> None:
    ((_, reward, *_),) = walk(CORRIDOR, "right", step_penalty=0.5, box_reward=0.0, finish_reward=1.0)
    assert reward == 0.5


def test_a_seed_makes_the_level() -> None:
    (task,) = SeededTasks({"dev": [7, 7]}, payload={"size": 7, "num_boxes": 2}).panel("dev").tasks
    observation, _ = SokobanEnvironment().reset(options={"task": task})
    assert Level.parse(observation) == generate_level(7, size=7, num_boxes=2)


def test_a_tiny_policy_knows_every_word() -> None:
    _, observation, info = begun(TWO)
    said = " ".join((observation, info["instruction"], *info["admissible_actions"]))
    assert set(said.split()) <= set(sokoban_words())


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "options must have a 'task' with a level or a seed"),
        ({"level": "####\n#@.#\n####"}, "as many boxes as targets, and a box off them, got 0 and 1"),
        ({"seed": 0, "colour": "red"}, "payload must have seed, size and num_boxes alone, got 'colour'"),
        ({"seed": 0, "size": 4}, r"size must be in \[5, 10\], got 4"),
        ({"seed": 0, "num_boxes": 3}, r"num_boxes must be in \[1, 2\], got 3: a sixth of the room"),
    ],
)
def test_a_task_that_is_no_level_is_refused(payload: dict[str, Any], message: str) -> None:
    task = Task(task_id="wrong", kind="short", payload=payload)
    with pytest.raises(ValueError, match=message):
        SokobanEnvironment().reset(options={"task": task})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("max_steps", 0), ("step_penalty", -0.1), ("box_reward", -1.0), ("finish_reward", float("nan"))],
)
def test_settings_out_of_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be"):
        SokobanEnvironment(**{argument: value})


def test_a_tiny_policy_trains_two_epochs() -> None:
    tasks = SokobanTasks(num_train=8, num_held_out=1, kinds=["short"])
    prompt = CompactTextPrompt(show_instruction=False)
    epochs = train_tiny_policy(SokobanEnvironment(), tasks, sokoban_symbols(), prompt=prompt)
    assert all(0 < metrics["rollout/episode_length"] <= 5 for metrics in epochs)
