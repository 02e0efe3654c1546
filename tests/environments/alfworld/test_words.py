"""The games' words."""

import random
import re
from pathlib import Path

import pytest

from gigpo_lightning.environments.alfworld import AlfworldEnvironment, SearchingExpert, alfworld_panel, alfworld_words
from gigpo_lightning.environments.base import Task

pytestmark = [pytest.mark.alfworld, pytest.mark.usefixtures("engine")]


def words_of(task: Task) -> set[str]:
    """Words of everything said in a game, played half by the expert and half at random."""
    environment, rng = AlfworldEnvironment(), random.Random(0)
    observation, info = environment.reset(options={"task": task})
    expert = SearchingExpert()
    expert.reset(info["instruction"], observation)
    texts = [info["instruction"], observation]
    for number in range(40):
        action = expert.act(observation, info["admissible_actions"])
        if number == 0:
            action = "help"
        elif rng.random() < 0.5:
            action = rng.choice((*info["admissible_actions"], "sit down"))
        expert.observe(action)
        observation, _, terminated, _, info = environment.step(action)
        texts += [observation, *info["admissible_actions"]]
        if terminated:
            break
    environment.close()
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}


@pytest.mark.parametrize("split", ["train", "valid_unseen"])
@pytest.mark.slow
def test_generated_games_say_no_other_word(scenes_dir: Path, split: str) -> None:
    said = set().union(*(words_of(task) for task in alfworld_panel(scenes_dir, split).tasks))
    assert said - set(alfworld_words()) == set()


def test_games_of_others_say_no_other_word(shared_data: Path) -> None:
    for folder in ("real", "generated"):
        for task in alfworld_panel(shared_data / "alfworld" / folder, "train").tasks:
            assert words_of(task) - set(alfworld_words()) == set()


def test_every_class_of_object_and_receptacle_is_a_word() -> None:
    from alfworld.gen import constants

    assert {name.lower() for name in (*constants.OBJECTS, *constants.RECEPTACLES)} <= set(alfworld_words())


def test_every_number_that_a_receptacle_can_have_is_a_word() -> None:
    assert {str(number) for number in range(1, 51)} <= set(alfworld_words())


def test_words_are_sorted_and_come_once() -> None:
    assert list(alfworld_words()) == sorted(set(alfworld_words()))


def test_words_are_lower_case_without_punctuation() -> None:
    assert all(re.fullmatch(r"[a-z]+|[0-9]+", word) for word in alfworld_words())
