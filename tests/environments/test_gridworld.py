"""The gridworld."""

from typing import Any

import pytest

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.gridworld import (
    GridworldEnvironment,
    GridworldTasks,
    gridworld_panel,
    gridworld_words,
)

TASK = Task(
    task_id="by hand",
    kind="near",
    payload={"size": 3, "start": (0, 0), "goal": (1, 1), "walls": ((0, 1),)},
)
SPLITS = ("train", "valid_seen", "valid_unseen")


def walk(*moves: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    environment = GridworldEnvironment()
    environment.reset(options={"task": TASK})
    return [environment.step(move) for move in moves][-1]


def test_it_keeps_the_rules_of_environments() -> None:
    check_environment(GridworldEnvironment(), gridworld_panel("train").tasks[0])


def test_the_observation_says_where_all_is() -> None:
    observation, _ = GridworldEnvironment().reset(options={"task": TASK})
    assert observation == "you are at row 0 column 0 . goal at row 1 column 1 . walls up left right ."


def test_only_free_moves_are_admissible() -> None:
    _, info = GridworldEnvironment().reset(options={"task": TASK})
    assert info["admissible_actions"] == ("down",)


def test_the_instruction_names_the_goal() -> None:
    _, info = GridworldEnvironment().reset(options={"task": TASK})
    assert info["instruction"] == "go to row 1 column 1"


def test_reaching_the_goal_is_rewarded_and_ends_the_episode() -> None:
    _, reward, terminated, truncated, info = walk("down", "right")
    assert (reward, terminated, truncated, info["success"]) == (10.0, True, False, True)


def test_any_other_move_gives_nothing() -> None:
    _, reward, terminated, truncated, info = walk("down")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)


@pytest.mark.parametrize("move", ["right", "up", "fly", "", "DOWN", "down down"])
def test_walls_edges_and_other_words_change_nothing(move: str) -> None:
    assert walk(move)[4]["anchor"] == walk("up")[4]["anchor"]


def test_states_recur_by_whatever_way_they_are_reached() -> None:
    assert walk("down", "down", "up")[4]["anchor"] == walk("down")[4]["anchor"]


def test_every_word_is_in_the_vocabulary() -> None:
    environment = GridworldEnvironment()
    said = {word for task in gridworld_panel("train").tasks for word in str(_instruction(environment, task)).split()}
    assert said <= set(gridworld_words())


def _instruction(environment: GridworldEnvironment, task: Task) -> str:
    observation, info = environment.reset(options={"task": task})
    return f"{observation} {info['instruction']} {' '.join(info['admissible_actions'])}"


def test_a_missing_task_is_refused() -> None:
    with pytest.raises(ValueError, match="options must have a 'task'"):
        GridworldEnvironment().reset(options={})


def test_no_pair_of_start_and_goal_is_in_two_splits() -> None:
    ids = [task.task_id for split in SPLITS for task in gridworld_panel(split).tasks]
    assert len(set(ids)) == len(ids)


def test_the_same_arguments_give_the_same_panel() -> None:
    assert gridworld_panel("train", seed=3) == gridworld_panel("train", seed=3)


def test_the_panels_hash_is_the_same_on_every_machine() -> None:
    assert gridworld_panel("train").sha256[:16] == "f124720c458ea10e"


def test_another_seed_gives_another_panel() -> None:
    assert gridworld_panel("train", seed=3).sha256 != gridworld_panel("train", seed=4).sha256


def test_unseen_tasks_are_on_a_map_of_their_own() -> None:
    seen, unseen = gridworld_panel("valid_seen"), gridworld_panel("valid_unseen")
    assert seen.tasks[0].payload["walls"] != unseen.tasks[0].payload["walls"]


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_has_both_kinds(split: str) -> None:
    assert {task.kind for task in gridworld_panel(split).tasks} == {"near", "far"}


def test_kinds_can_be_chosen() -> None:
    assert {task.kind for task in GridworldTasks(kinds=["near"]).panel("train").tasks} == {"near"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split must be one of"),
        ({"split": "train", "size": 1}, r"size must be in \[2, 10\], got 1"),
        ({"split": "train", "num_walls": 7}, r"num_walls must be in \[0, 6\], got 7: a quarter of the cells at most"),
        ({"split": "train", "kinds": ["nearby"]}, r"kinds must be among .*, got \['nearby'\]"),
        ({"split": "train", "kinds": []}, "kinds must leave a task"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gridworld_panel(**arguments)
