"""Shortest solutions, and the expert that plays them."""

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.demonstrations import demonstrate
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.sokoban import (
    Level,
    SokobanEnvironment,
    SokobanExpert,
    generate_level,
    sokoban_panel,
    solve,
)


def begin(level: Level) -> tuple[SokobanEnvironment, str, dict[str, Any]]:
    environment = SokobanEnvironment(max_steps=1000)
    task = Task(task_id="by hand", kind="short", payload={"level": level.text()})
    return environment, *environment.reset(options={"task": task})


def fewest_moves(level: Level) -> int:
    """A slow search, move by move, with the environment itself as the rules."""
    queue, seen = deque([(level.text(), 0)]), {level.text()}
    while queue:
        text, number = queue.popleft()
        for move in ("up", "down", "left", "right"):
            environment, _, _ = begin(Level.parse(text))
            observation, _, solved, _, _ = environment.step(move)
            if solved:
                return number + 1
            if observation not in seen:
                seen.add(observation)
                queue.append((observation, number + 1))
    raise AssertionError("no solution")


def test_a_detour_is_walked_where_a_box_has_to_turn() -> None:
    level = Level.parse("######\n#-.--#\n#-$@-#\n#----#\n######")
    assert solve(level) == ("down", "left", "up")


def test_a_box_in_a_corner_has_no_solution() -> None:
    assert solve(Level.parse("#####\n#$-.#\n#-@-#\n#####")) is None


def test_two_boxes_that_block_each_other_have_no_solution() -> None:
    assert solve(Level.parse("#######\n#@$$..#\n#######")) is None


def test_a_search_that_is_cut_short_finds_nothing() -> None:
    assert solve(generate_level(0), most_states=1) is None


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_no_solution_is_shorter(seed: int) -> None:
    level = generate_level(seed)
    assert len(solve(level) or ()) == fewest_moves(level)


@given(seed=st.integers(0, 10_000), num_boxes=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_a_solution_solves_its_level(seed: int, num_boxes: int) -> None:
    level = generate_level(seed, num_boxes=num_boxes)
    environment, _, _ = begin(level)
    outcomes = [environment.step(move)[2] for move in solve(level) or ()]
    assert outcomes == [False] * (len(outcomes) - 1) + [True]


def test_the_expert_solves_levels_of_a_panel_in_as_many_moves() -> None:
    expert = SokobanExpert()
    for task in sokoban_panel("valid", num_held_out=20).tasks:
        environment = SokobanEnvironment()
        observation, info = environment.reset(options={"task": task})
        expert.reset(info["instruction"], observation)
        number, solved = 0, False
        while not solved:
            observation, _, solved, _, info = environment.step(expert.act(observation, info["admissible_actions"]))
            number += 1
        assert number == len(solve(Level.parse(task.payload["level"])) or ())


def test_the_expert_says_something_admissible_where_there_is_no_solution() -> None:
    observation = Level.parse("#####\n#X_O#\n#_P_#\n#####").text()
    assert SokobanExpert().act(observation, ("left", "up")) == "left"


def test_demonstrations_with_detours_can_be_made() -> None:
    tasks = sokoban_panel("train", num_train=3, num_held_out=1).tasks
    shown = demonstrate(
        SokobanEnvironment(), tasks, SokobanExpert(), detour_probability=0.5, max_steps=12, seed=0, slip_probability=0.2
    )
    assert all(one.action in (one.view.admissible_actions or ()) for one in shown)
