"""TALES through Gymnasium, where it is installed: the package ``tale-suite``, and Java."""

import pytest

from gigpo_lightning.environments.base import check_environment
from gigpo_lightning.environments.gymnasium_text import GymnasiumEnvironment
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from tests.tiny_training import OneWord, train_tiny_policy

pytest.importorskip("tales", reason="TALES is not installed: the package tale-suite")
pytestmark = pytest.mark.slow

TASKS = SeededTasks({"train": [0, 3]})


@pytest.fixture
def coins():
    environment = GymnasiumEnvironment("tales/TWXCoinCollector-v0", {"admissible_commands": True}, imports=["tales"])
    yield environment
    environment.close()


def test_a_game_keeps_the_rules_of_environments(coins):
    check_environment(coins, TASKS.panel("train").tasks[1])


def test_its_rewards_are_of_the_step_and_its_end_is_a_success(coins):
    (_, info), said = coins.reset(options={"task": TASKS.panel("train").tasks[0]}), []
    while not said or not (said[-1][2] or len(said) == 30):
        offered = said[-1][4]["admissible_actions"] if said else info["admissible_actions"]
        said.append(coins.step(next((each for each in offered if each == "take coin"), offered[0])))
    assert said[-1][2]
    assert said[-1][4]["success"]
    assert sum(reward for _, reward, *_ in said) == 1.0


def test_a_tiny_policy_trains_two_epochs(coins):
    epochs = train_tiny_policy(coins, TASKS, OneWord.NUMBERS, prompt=OneWord(show_instruction=False), max_steps=3)
    assert all(0 < metrics["rollout/episode_length"] <= 3 for metrics in epochs)
