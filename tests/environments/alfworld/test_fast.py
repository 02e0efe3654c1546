"""The fast path against the stock engine, whole transcripts at a time."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.alfworld import alfworld_panel
from gigpo_lightning.environments.alfworld.engine import EngineSlot
from gigpo_lightning.environments.base import Task

pytestmark = [pytest.mark.alfworld, pytest.mark.usefixtures("engine")]

KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


@pytest.fixture(scope="module")
def pair(engine: None) -> tuple[Any, Any]:
    """A stock and a fast engine, used for one game after another."""
    from textworld.envs.pddl.pddl import PddlEnv

    from gigpo_lightning.environments.alfworld.fast import FastPddlEnv
    from tests.environments.alfworld.transcripts import make

    return make(PddlEnv), make(FastPddlEnv)


def assert_equal(pair: tuple[Any, Any], game_file: str, num_random: int, seed: int = 0) -> None:
    from tests.environments.alfworld.transcripts import commands_for, play

    stock, fast = pair
    commands = commands_for(fast, game_file, num_random, seed)
    for number, (one, other) in enumerate(
        zip(play(stock, game_file, commands), play(fast, game_file, commands), strict=True)
    ):
        assert one == other, f"after {commands[:number]}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_generated_games_read_alike_on_both_engines(pair: tuple[Any, Any], tasks: dict[str, Task], kind: str) -> None:
    assert_equal(pair, tasks[kind].payload["game_file"], num_random=10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_long_random_play_reads_alike_on_both_engines(pair: tuple[Any, Any], tasks: dict[str, Task], kind: str) -> None:
    assert_equal(pair, tasks[kind].payload["game_file"], num_random=60, seed=1)


@pytest.mark.slow
def test_every_shared_game_reads_alike_on_both_engines(pair: tuple[Any, Any], shared_data: Path) -> None:
    files = sorted((shared_data / "alfworld").rglob("game.tw-pddl"))
    assert files
    for file in files:
        assert_equal(pair, str(file), num_random=25)


def test_a_game_reads_alike_before_and_after_another(pair: tuple[Any, Any], tasks: dict[str, Task]) -> None:
    from tests.environments.alfworld.transcripts import commands_for, play

    _, fast = pair
    game, other = (tasks[kind].payload["game_file"] for kind in KINDS[:2])
    commands = commands_for(fast, game, num_random=15, seed=2)
    first = play(fast, game, commands)
    play(fast, other, commands_for(fast, other, num_random=15, seed=2))
    assert play(fast, game, commands) == first


def test_a_second_reset_starts_anew(pair: tuple[Any, Any], tasks: dict[str, Task]) -> None:
    from tests.environments.alfworld.transcripts import commands_for, play, said

    _, fast = pair
    game = tasks[KINDS[0]].payload["game_file"]
    first = play(fast, game, commands_for(fast, game, num_random=5, seed=0))[0]
    assert said(fast.reset()) == first


def test_names_that_a_wrapper_gives_are_its_own_alone(pair: tuple[Any, Any], tasks: dict[str, Task]) -> None:
    _, fast = pair
    game = tasks[KINDS[0]].payload["game_file"]
    fast.load(game)
    before = fast.reset()["admissible_commands"]
    fast.load(game)
    for info in fast.unwrapped._entity_infos.values():
        info.name = info.name.replace(" ", " number ")
    renamed = fast.reset()["admissible_commands"]
    assert renamed != before
    assert [command.replace(" number ", " ") for command in renamed] == before
    fast.load(game)
    assert fast.reset()["admissible_commands"] == before


def test_games_that_differ_in_the_goal_alone_keep_their_own(pair: tuple[Any, Any], tasks: dict[str, Task]) -> None:
    _, fast = pair
    for task in tasks.values():
        fast.load(task.payload["game_file"])
        goal = fast.reset().feedback.rsplit("Your task is to: ", 1)[1]
        assert task.task_id.split("-")[1].lower() in goal


def test_a_goal_in_a_persons_words_reads_alike_on_both_engines(
    pair: tuple[Any, Any], tasks: dict[str, Task], tmp_path: Path
) -> None:
    content = Path(tasks[KINDS[0]].payload["game_file"]).read_text()
    start = content.index("Your task is to: ") + len("Your task is to: ")
    words = "Bring the object over, please, to where it belongs"
    (tmp_path / "game.tw-pddl").write_text(content[:start] + words + content[content.index(".", start) :])
    assert_equal(pair, str(tmp_path / "game.tw-pddl"), num_random=3)


@pytest.mark.slow
def test_the_planners_walkthrough_is_the_same_on_both_engines(scenes_dir: Path, tmp_path: Path) -> None:
    import json

    from textworld.envs.pddl.pddl import PddlEnv

    from gigpo_lightning.environments.alfworld.fast import FastPddlEnv
    from tests.environments.alfworld.transcripts import make

    content = json.loads(Path(alfworld_panel(scenes_dir, "train").tasks[0].payload["game_file"]).read_text())
    content["walkthrough"] = None
    plans = []
    for engine in (PddlEnv, FastPddlEnv):
        environment = make(engine, extras=["walkthrough"], policy_commands=True)
        environment.load(content)
        state = environment.reset()
        plans.append((state["extra.walkthrough"], state["policy_commands"]))
    assert plans[0] == plans[1]
    assert plans[0][0]


def test_fast_off_is_textworlds_own_engine_after_fast_was_on(tasks: dict[str, Task]) -> None:
    from textworld.envs.pddl import logic, textgen
    from textworld.envs.pddl.pddl import PddlEnv

    game = tasks[KINDS[0]].payload["game_file"]
    EngineSlot(fast=True).start(game)
    slot = EngineSlot(fast=False)
    slot.start(game)
    engine = slot._environment.unwrapped
    parts = (engine, engine._pddl_state, engine._logic.grammar)
    assert [type(part) for part in parts] == [PddlEnv, logic.PddlState, textgen.ContextSensitiveGrammar]
    modules = {function.__module__ for part in parts for function in vars(type(part)).values() if callable(function)}
    assert all(module.startswith("textworld.") for module in modules)


def test_every_cache_is_bounded() -> None:
    from gigpo_lightning.environments.alfworld import fast, translation

    caches = [value for part in (fast, translation) for value in vars(part).values() if hasattr(value, "cache_info")]
    assert caches
    assert all(cache.cache_info().maxsize is not None for cache in caches)


@pytest.mark.parametrize("fast", [True, False])
def test_loading_leaves_the_command_line_and_the_output_alone(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    arguments, output = ["gigpo", "fit"], io.StringIO()
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "stdout", output)
    EngineSlot(fast).start(tasks[KINDS[0]].payload["game_file"])
    assert sys.argv is arguments
    assert sys.stdout is output
    assert output.getvalue() == ""


_PLAY = """
import hashlib, sys
from gigpo_lightning.environments.alfworld import AlfworldEnvironment, SearchingExpert, alfworld_panel
environment, digest = AlfworldEnvironment(anchor="state"), hashlib.sha256()
for task in alfworld_panel(sys.argv[1], "valid_seen").tasks:
    observation, info = environment.reset(options={"task": task})
    expert = SearchingExpert()
    expert.reset(info["instruction"], observation)
    for _ in range(12):
        digest.update(repr((observation, info)).encode())
        action = expert.act(observation, info["admissible_actions"])
        expert.observe(action)
        observation, _, terminated, _, info = environment.step(action)
        if terminated:
            break
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_texts_commands_and_state_keys_do_not_depend_on_the_hash_seed(scenes_dir: Path) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PLAY, str(scenes_dir)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
