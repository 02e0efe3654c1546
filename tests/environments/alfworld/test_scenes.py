"""Games made offline."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.alfworld import (
    AlfworldEnvironment,
    AlfworldTasks,
    Scenes,
    alfworld_panel,
    generate_scenes,
)
from gigpo_lightning.environments.alfworld.offline.floor_plans import LAMPS, ROOMS, floor_plan, split_plans, tables
from gigpo_lightning.environments.alfworld.offline.games import draw_game, possible_goals
from gigpo_lightning.environments.alfworld.offline.scenes import GoalBalance
from gigpo_lightning.environments.alfworld.task_types import KINDS, SPLITS
from gigpo_lightning.environments.base import Task
from tests.environments.alfworld.conftest import SMALL

pytestmark = [pytest.mark.alfworld, pytest.mark.usefixtures("engine")]

TINY = Scenes(seed=1, train=3, valid_seen=0, valid_unseen=1, receptacles=5, objects=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def game_of(task: Task) -> dict[str, Any]:
    game: dict[str, Any] = json.loads(Path(task.payload["game_file"]).read_text())
    return game


def all_tasks(folder: Path) -> list[Task]:
    return [task for split in SPLITS for task in alfworld_panel(folder, split).tasks]


@pytest.mark.slow
def test_the_same_settings_give_the_same_files_to_the_byte_however_many_processes(tmp_path: Path) -> None:
    for name, processes in (("a", 1), ("b", 2)):
        generate_scenes(tmp_path / name, TINY, processes)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_seed_gives_other_games(tmp_path: Path) -> None:
    generate_scenes(tmp_path / "a", TINY)
    generate_scenes(tmp_path / "b", replace(TINY, seed=2))
    files = [set(contents(tmp_path / name)) - {"json_2.1.1/scenes.json"} for name in "ab"]
    assert not files[0] & files[1]


def test_each_split_has_as_many_games_as_asked_for(scenes_dir: Path) -> None:
    counts = [len(alfworld_panel(scenes_dir, split)) for split in SPLITS]
    assert counts == [SMALL.train, SMALL.valid_seen, SMALL.valid_unseen]


def test_all_six_kinds_come_equally_often(scenes_dir: Path) -> None:
    assert Counter(task.kind for task in alfworld_panel(scenes_dir, "train").tasks) == dict.fromkeys(KINDS, 2)


def test_every_game_is_won_by_its_walkthrough_and_not_before(scenes_dir: Path) -> None:
    environment = AlfworldEnvironment()
    for task in all_tasks(scenes_dir):
        environment.reset(options={"task": task})
        wins = [environment.step(command)[2] for command in game_of(task)["walkthrough"]]
        assert wins == [False] * (len(wins) - 1) + [True], task.task_id


def test_the_agent_starts_in_the_middle_of_the_room(scenes_dir: Path) -> None:
    environment = AlfworldEnvironment()
    for task in all_tasks(scenes_dir):
        observation, info = environment.reset(options={"task": task})
        assert "You are in the middle of a room. Looking quickly around you, you see a " in observation
        assert not any(action.startswith("examine ") for action in info["admissible_actions"])


def test_no_game_has_more_receptacles_than_asked_for(scenes_dir: Path) -> None:
    for task in all_tasks(scenes_dir):
        assert 0 < game_of(task)["pddl_problem"].count("(receptacleAtLocation ") - 1 <= SMALL.receptacles + 1


def test_alfworlds_own_loader_takes_every_game(scenes_dir: Path) -> None:
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    folder = scenes_dir / "json_2.1.1" / "train"
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(folder), "num_train_games": 0},
    }
    assert len(AlfredTWEnv(config).game_files) == SMALL.train


def test_the_facts_beside_the_game_are_alfworlds(scenes_dir: Path) -> None:
    for task in all_tasks(scenes_dir):
        facts = json.loads(Path(task.payload["game_file"]).with_name("traj_data.json").read_text())
        parameters = facts["pddl_params"]
        _, target, _, place, plan = task.task_id.split("/")[0].split("-")
        assert (facts["task_type"], facts["scene"]["scene_num"]) == (task.kind, int(plan))
        assert (parameters["object_target"], parameters["parent_target"] or parameters["toggle_target"]) == (
            target,
            place,
        )


def test_unseen_games_are_in_rooms_that_are_held_out() -> None:
    train, seen, unseen = ({plan.number for plan in split_plans(split)} for split in SPLITS)
    assert train == seen
    assert not train & unseen
    assert unseen == {first + n for first in (1, 201, 301, 401) for n in range(6)}


def test_every_object_that_can_be_put_elsewhere_is_asked_for_in_six_hundred_games() -> None:
    rng = random.Random(0)
    asked: set[str] = set()
    for kind in KINDS:
        balance = GoalBalance(possible_goals(kind, split_plans("train")))
        asked |= {balance.draw(rng).target for _ in range(100)}
    classes = {each for room in ROOMS.values() for n in room for each in floor_plan(n).object_classes} - set(LAMPS)
    assert classes - asked == {"Plunger", "Towel"}  # each fits into one class of receptacle only, so has nowhere to go


def test_every_receptacle_that_holds_something_is_a_destination() -> None:
    places = {goal.place for goal in possible_goals("pick_and_place_simple", split_plans("train"))}
    kinds = {each.kind for plan in split_plans("train") for each in plan.receptacles}
    assert kinds - places <= {"LaundryHamper", "TVStand", "Toaster", "TowelHolder", "HandTowelHolder", "CoffeeMachine"}


@pytest.mark.parametrize("kind", KINDS)
def test_targets_lie_anywhere_but_where_they_are_wanted(kind: str) -> None:
    goals = possible_goals(kind, split_plans("train"))
    rng = random.Random(0)
    holders: Counter[str] = Counter()
    for _ in range(200):
        goal = rng.choice(goals)
        game = draw_game(rng, goal, "trial", num_receptacles=8, num_objects=10, duplicates=2)
        held = {each.holder.kind for each in game.objects if each.kind == goal.target}
        assert goal.place not in held
        assert all(each.kind in tables().holds[each.holder.kind] for each in game.objects if each.kind not in LAMPS)
        holders.update(held)
    assert holders.most_common(1)[0][1] < sum(holders.values()) / 2


def test_making_the_scenes_again_changes_nothing(tmp_path: Path) -> None:
    source = AlfworldTasks(str(tmp_path), scenes=TINY)
    source.prepare()
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    source.prepare()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_nothing_but_the_games_is_left_behind(tmp_path: Path) -> None:
    generate_scenes(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["json_2.1.1"]


def test_scenes_of_other_settings_are_refused(tmp_path: Path) -> None:
    AlfworldTasks(str(tmp_path), scenes=TINY).prepare()
    with pytest.raises(ValueError, match="holds scenes made with receptacles 5 instead of 6; choose another data_dir"):
        AlfworldTasks(str(tmp_path), scenes=replace(TINY, receptacles=6)).prepare()


def test_games_that_were_not_made_here_are_not_taken_for_scenes(tmp_path: Path) -> None:
    (tmp_path / "json_2.1.1" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data_dir must be free for scenes, but .* has no readable scenes\.json"):
        AlfworldTasks(str(tmp_path), scenes=TINY).prepare()


def test_no_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="processes must be >= 1, got 0"):
        generate_scenes(tmp_path, TINY, processes=0)


@pytest.mark.parametrize("wrong", [{"train": -1}, {"receptacles": 3}, {"objects": 1}, {"duplicates": 0}, {"seed": -1}])
def test_numbers_that_are_too_small_are_refused(wrong: dict[str, int]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"{name} must be >= \d+, got {value}"):
        Scenes(**wrong)
