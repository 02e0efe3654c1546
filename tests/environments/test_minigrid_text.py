"""MiniGrid's worlds in words, with the whole grid's state as the anchor."""

import numpy as np
import pytest

from gigpo_lightning.check_command import carry_out
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.gymnasium_text import GymnasiumEnvironment
from gigpo_lightning.environments.minigrid_text import MiniGridText, describe, minigrid_words
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from tests.extras import installed
from tests.tiny_training import train_tiny_policy

installed("minigrid", "minigrid")
DOOR_KEY = "minigrid:MiniGrid-DoorKey-5x5-v0"


def task(seed=0):
    return Task(task_id="it", kind="seed", payload={"seed": seed})


def door_key():
    return GymnasiumEnvironment(DOOR_KEY, wrappers=[MiniGridText])


def test_what_the_agent_sees_is_said_from_where_it_stands():
    # a view of 3 x 3, by column; the agent is in the middle of the last row and looks at the first
    image = np.zeros((3, 3, 3), dtype=int)
    image[0, 2] = (2, 5, 0)  # a wall at its left
    image[1, 0] = (2, 5, 0)  # a wall two steps ahead
    image[2, 1] = (4, 4, 2)  # a locked yellow door, ahead and to the right
    image[1, 2] = (5, 0, 0)  # a red key in its hand
    assert describe(image, 3) == (
        "you face north . you carry red key . wall ahead 2 left 1 . locked yellow door 1 ahead 1 right ."
    )


def test_the_whole_way_to_a_goal_is_said_and_rewarded():
    environment = door_key()
    observation, info = environment.reset(options={"task": task()})
    assert info["instruction"] == "use the key to open the door and then get to the goal"
    assert "yellow key 1 right" in observation
    way = ["right", "pickup", "forward", "forward", "right", "toggle"]  # to the door, which the key opens
    way += ["forward", "forward", "right", "forward", "forward"]
    said = [environment.step(word) for word in way]
    assert "you carry yellow key" in said[1][0]
    assert "open yellow door 1 ahead" in said[5][0]
    assert "green goal 2 ahead" in said[8][0]
    assert [each[2] for each in said] == [False] * 10 + [True]
    assert said[-1][1] > 0.9
    assert [each[4]["success"] for each in said] == [False] * 10 + [True]
    anchors = [each[4]["anchor"] for each in said]
    assert len(set(anchors)) == len(anchors)


def test_a_state_that_comes_back_has_its_anchor_back_whatever_the_time():
    environment = door_key()
    _, info = environment.reset(options={"task": task()})
    assert environment.step("left")[4]["anchor"] != info["anchor"]
    assert environment.step("right")[4]["anchor"] == info["anchor"]
    assert environment.step("dance")[4]["anchor"] == info["anchor"]


def test_a_tiny_policy_knows_every_word_of_a_door_and_a_key():
    environment, known = door_key(), {*minigrid_words()}
    for seed in range(4):
        said = [environment.reset(options={"task": task(seed)})[0]]
        said += [environment.step(word)[0] for word in ("pickup", "right", "pickup", "forward", "toggle", "left")]
        assert {word for each in said for word in each.split()} <= known


NAMES = ["Empty-5x5", "LavaGapS5", "KeyCorridorS3R1", "ObstructedMaze-1Dlhb", "Dynamic-Obstacles-5x5"]


@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_worlds_keep_the_rules(name):
    check_environment(GymnasiumEnvironment(f"minigrid:MiniGrid-{name}-v0", wrappers=[MiniGridText]), task())


def test_a_tiny_policy_trains_on_it():
    train_tiny_policy(door_key(), SeededTasks({"train": [0, 7]}), minigrid_words())


def test_the_command_finds_states_that_meet(capsys):
    wrapper = f"[{MiniGridText.__module__}.MiniGridText]"
    words = [DOOR_KEY, "--environment.wrappers", wrapper, "--num_tasks", "2", "--group_size", "4"]
    assert carry_out(words) == 0
    assert "later steps are compared with others" in capsys.readouterr().out
