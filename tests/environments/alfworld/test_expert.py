"""The expert: by hand, line by line, and on generated games."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from gigpo_lightning.environments.alfworld import AlfworldEnvironment, SearchingExpert, alfworld_panel
from gigpo_lightning.environments.base import Task

ROOM = "You are in the middle of a room. Looking quickly around you, you see a {}.\n\nYour task is to: {}."
EVERYWHERE = ("help", "inventory", "look")


def ask(expert: SearchingExpert, observation: str, *actions: str) -> str:
    return expert.act(observation, (*actions, *EVERYWHERE))


def begin(instruction: str, *places: str) -> SearchingExpert:
    expert = SearchingExpert()
    expert.reset(instruction, ROOM.format(", a ".join(places), instruction))
    return expert


def follow(expert: SearchingExpert, turns: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """The expert's advice at each turn, when it is always followed."""
    advice = []
    for observation, actions in turns:
        advice.append(ask(expert, observation, *actions))
        expert.observe(advice[-1])
    return advice


def test_it_looks_through_closed_and_open_places_in_order_until_it_sees_what_it_wants() -> None:
    expert = begin("put a pen in desk", "desk 1", "drawer 1", "shelf 1")
    advice = follow(
        expert,
        [
            ("You are in the middle of a room.", ("go to desk 1", "go to drawer 1", "go to shelf 1")),
            (
                "You arrive at desk 1. On the desk 1, you see nothing.",
                ("examine desk 1", "go to drawer 1", "go to shelf 1"),
            ),
            (
                "You arrive at drawer 1. The drawer 1 is closed.",
                ("examine drawer 1", "open drawer 1", "go to desk 1", "go to shelf 1"),
            ),
            (
                "You open the drawer 1. The drawer 1 is open. In it, you see a cup 1, and a pen 2.",
                (
                    "take pen 2 from drawer 1",
                    "take cup 1 from drawer 1",
                    "examine drawer 1",
                    "go to desk 1",
                    "go to shelf 1",
                ),
            ),
            (
                "You pick up the pen 2 from the drawer 1.",
                ("examine drawer 1", "move pen 2 to drawer 1", "go to desk 1"),
            ),
            ("You arrive at desk 1. On the desk 1, you see nothing.", ("examine desk 1", "move pen 2 to desk 1")),
        ],
    )
    assert advice == [
        "go to desk 1",
        "go to drawer 1",
        "open drawer 1",
        "take pen 2 from drawer 1",
        "go to desk 1",
        "move pen 2 to desk 1",
    ]


def test_it_heats_before_it_delivers() -> None:
    expert = begin("put a hot egg in shelf", "microwave 1", "shelf 1")
    advice = follow(
        expert,
        [
            ("On the shelf 1, you see a egg 1.", ("examine shelf 1", "take egg 1 from shelf 1", "go to microwave 1")),
            (
                "You pick up the egg 1 from the shelf 1.",
                ("examine shelf 1", "move egg 1 to shelf 1", "go to microwave 1"),
            ),
            (
                "You arrive at microwave 1. The microwave 1 is closed.",
                ("examine microwave 1", "heat egg 1 with microwave 1", "open microwave 1", "go to shelf 1"),
            ),
            (
                "You heat the egg 1 using the microwave 1.",
                ("examine microwave 1", "heat egg 1 with microwave 1", "go to shelf 1"),
            ),
        ],
    )
    assert advice[1:] == ["go to microwave 1", "heat egg 1 with microwave 1", "go to shelf 1"]


def test_a_detour_that_undoes_the_heat_is_mended() -> None:
    expert = begin("heat some egg and put it in shelf", "fridge 1", "microwave 1", "shelf 1")
    places = ("go to fridge 1", "go to microwave 1", "go to shelf 1")
    ask(expert, "On the shelf 1, you see a egg 1.", "take egg 1 from shelf 1")
    for action, said in (
        ("take egg 1 from shelf 1", "You pick up the egg 1 from the shelf 1."),
        ("heat egg 1 with microwave 1", "You heat the egg 1 using the microwave 1."),
        ("cool egg 1 with fridge 1", "You cool the egg 1 using the fridge 1."),
    ):
        expert.observe(action)
        advice = ask(expert, said, *places)
    assert advice == "go to microwave 1"


def test_both_of_two_go_to_the_same_place() -> None:
    expert = begin("put two pen in drawer", "drawer 1", "drawer 2", "shelf 1")
    ask(expert, "The drawer 2 is open. In it, you see a pen 1.", "go to shelf 1")
    expert.observe("take pen 2 from shelf 1")
    assert (
        ask(expert, "You pick up the pen 2 from the shelf 1.", "go to drawer 1", "go to drawer 2") == "go to drawer 2"
    )


def test_one_of_two_that_lies_where_it_should_is_left_there() -> None:
    expert = begin("put two pen in drawer", "drawer 1", "shelf 1")
    said = "The drawer 1 is open. In it, you see a pen 1."
    assert ask(expert, said, "examine drawer 1", "take pen 1 from drawer 1", "go to shelf 1") == "go to shelf 1"


def test_the_lamp_is_used_with_the_object_in_hand() -> None:
    expert = begin("look at pen under the desklamp", "desk 1", "shelf 1")
    desk = ("examine desk 1", "use desklamp 1", "go to shelf 1")
    assert ask(expert, "On the desk 1, you see a desklamp 1.", *desk) == "go to shelf 1"
    expert.observe("take pen 1 from shelf 1")
    assert ask(expert, "You pick up the pen 1 from the shelf 1.", "examine shelf 1", "go to desk 1") == "go to desk 1"
    expert.observe("go to desk 1")
    assert ask(expert, "You arrive at desk 1. On the desk 1, you see a desklamp 1.", *desk) == "use desklamp 1"


def test_a_wrong_object_in_hand_is_put_down_first() -> None:
    expert = begin("put a pen in desk", "desk 1", "shelf 1")
    expert.observe("take cup 1 from shelf 1")
    said = "You pick up the cup 1 from the shelf 1."
    assert ask(expert, said, "examine shelf 1", "go to desk 1", "move cup 1 to shelf 1") == "move cup 1 to shelf 1"


def test_a_place_that_shares_another_is_gone_to_from_elsewhere() -> None:
    expert = begin("put a pen in desk", "desk 1", "shelf 1", "shelf 2")
    ask(expert, "On the desk 1, you see nothing.", "go to shelf 1", "go to shelf 2")
    expert.observe("go to shelf 1")
    said = "You arrive at shelf 1. On the shelf 1, you see nothing."
    assert ask(expert, said, "examine shelf 1", "examine shelf 2", "go to desk 1") == "go to desk 1"
    expert.observe("go to desk 1")
    said = "You arrive at desk 1. On the desk 1, you see nothing."
    assert ask(expert, said, "examine desk 1", "go to shelf 1", "go to shelf 2") == "go to shelf 2"


def test_when_all_has_been_seen_in_vain_it_looks_again() -> None:
    expert = begin("put a pen in desk", "desk 1", "shelf 1")
    ask(expert, "On the desk 1, you see nothing.", "go to shelf 1")
    assert ask(expert, "On the shelf 1, you see nothing.", "examine shelf 1", "go to desk 1") == "go to desk 1"


def test_an_action_that_did_nothing_is_not_believed() -> None:
    expert = begin("put a pen in desk", "desk 1", "shelf 1")
    expert.observe("take pen 1 from shelf 1")
    assert ask(expert, "Nothing happens.", "go to desk 1", "go to shelf 1") == "go to desk 1"


def test_the_next_episode_starts_without_memories() -> None:
    expert = begin("put a pen in desk", "desk 1", "shelf 1")
    ask(expert, "On the desk 1, you see nothing.", "go to shelf 1")
    expert.reset("put a pen in desk", ROOM.format("desk 1, and a shelf 1", "put a pen in desk"))
    assert ask(expert, "You are in the middle of a room.", "go to desk 1", "go to shelf 1") == "go to desk 1"


def test_a_sentence_that_is_no_goal_is_refused() -> None:
    with pytest.raises(ValueError, match="instruction must be a goal sentence of ALFWorld, got 'tidy up'"):
        SearchingExpert().reset("tidy up", "")


def test_no_action_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="admissible_actions must hold at least one action"):
        begin("put a pen in desk", "desk 1").act("On the desk 1, you see nothing.", ())


@pytest.mark.alfworld
def test_every_goal_sentence_of_the_wheel_is_understood(engine: None) -> None:
    from gigpo_lightning.environments.alfworld.offline.floor_plans import goal_library, tables
    from gigpo_lightning.environments.alfworld.task_types import KINDS

    for kind in KINDS:
        for template in goal_library()[kind]["templates"]:
            for name in tables().classes:
                SearchingExpert().reset(template.format(obj=name.lower(), recep="shelf", toggle="desklamp"), "")


def play(environment: AlfworldEnvironment, task: Task, detours: float, max_steps: int = 50) -> bool:
    rng = random.Random(task.task_id)
    observation, info = environment.reset(options={"task": task})
    expert = SearchingExpert()
    expert.reset(info["instruction"], observation)
    for _ in range(max_steps):
        action = expert.act(observation, info["admissible_actions"])
        assert action in info["admissible_actions"]
        if rng.random() < detours:
            action = rng.choice(info["admissible_actions"])
        expert.observe(action)
        observation, _, terminated, _, info = environment.step(action)
        if terminated:
            return True
    return False


@pytest.mark.slow
@pytest.mark.alfworld
@pytest.mark.parametrize("detours", [0.0, 0.3])
def test_it_wins_generated_games(scenes_dir: Path, detours: float) -> None:
    environment = AlfworldEnvironment()
    tasks = [task for split in ("train", "valid_unseen") for task in alfworld_panel(scenes_dir, split).tasks]
    lost = [task.task_id for task in tasks if not play(environment, task, detours)]
    assert lost == []


@pytest.mark.slow
@pytest.mark.alfworld
def test_it_wins_games_of_others(engine: None, shared_data: Path) -> None:
    environment = AlfworldEnvironment()
    for folder, split in (("real", "train"), ("generated", "train"), ("generated", "valid_unseen")):
        for task in alfworld_panel(shared_data / "alfworld" / folder, split).tasks:
            assert play(environment, task, detours=0.0), task.task_id
