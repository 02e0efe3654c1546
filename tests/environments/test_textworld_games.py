"""TextWorld's own games, from files and from seeds, with the facts of the world as the anchor."""

import shutil

import pytest

from gigpo_lightning.check_command import carry_out
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.gymnasium_text import GymnasiumEnvironment
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from tests.tiny_training import OneWord, train_tiny_policy

pytest.importorskip("textworld", reason="TextWorld is not installed: the extra alfworld")

from gigpo_lightning.environments.textworld_games import TextWorldGames, made_game

pytestmark = pytest.mark.slow  # a game is made in about a second
GAMES = "gigpo_lightning.environments.textworld_games.TextWorldGames"
COINS = {"challenge": "tw-coin_collector", "settings": {"level": 2}}


def task(seed=0):
    return Task(task_id="it", kind="seed", payload={"seed": seed})


def coins():
    return GymnasiumEnvironment(GAMES, COINS)


def test_a_seed_makes_its_game_which_keeps_the_rules():
    check_environment(coins(), task())


def test_a_game_is_won_by_its_walkthrough():
    environment = coins()
    observation, info = environment.reset(options={"task": task()})
    assert info["instruction"] in observation
    assert "$$" not in observation  # the title's letters
    assert ">" not in observation  # the status line, which counts the moves
    (way,) = [command for command in info["admissible_actions"] if command.startswith("go ")]
    first = environment.step(way)
    second = environment.step("take coin")
    assert first[1:4] == (0.0, False, False)
    assert not first[4]["success"]
    assert second[1:3] == (1.0, True)
    assert second[4]["success"]
    assert info["anchor"] != first[4]["anchor"]


def test_looking_around_changes_no_anchor():
    environment = coins()
    _, info = environment.reset(options={"task": task()})
    assert environment.step("look")[4]["anchor"] == environment.step("sing")[4]["anchor"] == info["anchor"]
    assert environment.step("look")[0] == environment.step("look")[0]


def test_files_of_a_folder_are_played_by_their_number(tmp_path):
    for number, seed in enumerate((5, 6)):
        made = made_game("tw-coin_collector", '{"level": 2}', seed)
        for end in (".z8", ".json"):
            shutil.copy(made.removesuffix(".z8") + end, tmp_path / f"game{number}{end}")
    games = TextWorldGames(folder=str(tmp_path))
    assert games.reset(seed=0)[0] != games.reset(seed=1)[0]
    with pytest.raises(ValueError, match=r"seed must be in \[0, 1\], got 2"):
        games.reset(seed=2)
    games.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "folder or challenge must be given, one of them"),
        ({"folder": "a", "challenge": "b"}, "folder or challenge must be given, one of them"),
        ({"challenge": "tw-coins"}, "challenge must be one of tw-coin_collector"),
        ({"folder": "/nowhere"}, "folder must hold game files"),
    ],
)
def test_what_cannot_be_played_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        TextWorldGames(**options)


def test_settings_that_are_missing_are_named():
    with pytest.raises(ValueError, match=r"settings of tw-coin_collector must have 'level', got {}"):
        TextWorldGames(challenge="tw-coin_collector").reset(seed=0)


def test_a_tiny_policy_trains_on_it():
    train_tiny_policy(coins(), SeededTasks({"train": [0, 1]}), OneWord.NUMBERS, prompt=OneWord())


def test_the_command_finds_states_that_meet(capsys):
    words = [ADAPTER, "--environment.env_id", GAMES, "--environment.kwargs", str(COINS).replace("'", '"')]
    assert carry_out([*words, "--num_tasks", "1", "--group_size", "4", "--max_steps", "8"]) == 0
    assert "later steps are compared with others" in capsys.readouterr().out


ADAPTER = "gigpo_lightning.environments.gymnasium_text.GymnasiumEnvironment"
