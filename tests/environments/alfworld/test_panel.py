"""Panels of game files; none of these tests needs the engine, but the one that reads real data."""

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.alfworld import AlfworldTasks, alfworld_panel

SIMPLE, HEAT = "pick_and_place_simple", "pick_heat_then_place_in_recep"
GAME = {"pddl_domain": "d", "grammar": "g", "pddl_problem": "p", "solvable": True, "walkthrough": None}


def write(data_dir: Path, name: str, split: str = "train", content: str | None = None, **changes: Any) -> Path:
    folder = data_dir / "json_2.1.1" / split / name / "trial_T1"
    folder.mkdir(parents=True)
    file = folder / "game.tw-pddl"
    file.write_text(json.dumps(GAME | {"pddl_problem": name} | changes) if content is None else content)
    return file


def write_many(data_dir: Path, count: int = 40, kind: str = SIMPLE, first: int = 0) -> list[str]:
    names = [f"{kind}-Apple{number:02d}-None-Fridge-{number}" for number in range(first, first + count)]
    for name in names:
        write(data_dir, name)
    return names


def ids(data_dir: Path, kinds: Sequence[str] | None = None) -> list[str]:
    return [task.task_id.split("/")[0] for task in alfworld_panel(data_dir, "train", kinds).tasks]


def test_every_game_is_listed_once(tmp_path: Path) -> None:
    names = write_many(tmp_path)
    assert sorted(ids(tmp_path)) == names


def test_neighbours_by_name_are_not_neighbours_in_the_panel(tmp_path: Path) -> None:
    names = write_many(tmp_path)
    order = [names.index(name) for name in ids(tmp_path)]
    assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(order)) < len(names) // 4


def test_the_panel_does_not_depend_on_where_or_when_the_files_were_written(tmp_path: Path) -> None:
    write_many(tmp_path / "a")
    write_many(tmp_path / "b", count=20, first=20)
    write_many(tmp_path / "b", count=20)
    one, other = (alfworld_panel(tmp_path / name, "train") for name in "ab")
    assert [task.task_id for task in one.tasks] == [task.task_id for task in other.tasks]
    assert one.sha256 == other.sha256


def test_the_hash_covers_what_the_files_hold(tmp_path: Path) -> None:
    write(tmp_path / "a", f"{SIMPLE}-Apple-None-Fridge-1")
    write(tmp_path / "b", f"{SIMPLE}-Apple-None-Fridge-1", pddl_problem="another")
    assert alfworld_panel(tmp_path / "a", "train").sha256 != alfworld_panel(tmp_path / "b", "train").sha256


def test_a_task_names_its_kind_and_its_file(tmp_path: Path) -> None:
    file = write(tmp_path, f"{HEAT}-Apple-None-Fridge-1")
    (task,) = alfworld_panel(tmp_path, "train").tasks
    assert (task.kind, task.payload) == (HEAT, {"game_file": str(file)})


def test_kinds_choose_among_the_games(tmp_path: Path) -> None:
    write_many(tmp_path, count=3)
    heat = write_many(tmp_path, count=2, kind=HEAT)
    assert sorted(ids(tmp_path, [HEAT])) == heat


@pytest.mark.parametrize("value", [False, None, "missing"])
def test_games_not_marked_solvable_are_left_out(tmp_path: Path, value: Any) -> None:
    names = write_many(tmp_path, count=1)
    unsolved = {key: entry for key, entry in GAME.items() if key != "solvable"}
    content = json.dumps(unsolved if value == "missing" else GAME | {"solvable": value})
    write(tmp_path, f"{SIMPLE}-Bowl-None-Shelf-9", content=content)
    assert ids(tmp_path) == names


@pytest.mark.parametrize(
    "name", ["pick_and_place_with_movable_recep-Pen-Mug-Desk-1", f"{SIMPLE}-AppleSliced-None-Fridge-1"]
)
def test_movable_receptacles_and_sliced_objects_are_left_out(tmp_path: Path, name: str) -> None:
    names = write_many(tmp_path, count=1)
    write(tmp_path, name)
    assert ids(tmp_path) == names


def test_a_corrupt_file_is_named_and_counted(tmp_path: Path) -> None:
    write_many(tmp_path, count=2)
    file = write(tmp_path, f"{SIMPLE}-Bowl-None-Shelf-9", content='{"pddl_domain": "d", "gra')
    with pytest.raises(ValueError, match=rf"1 game files are corrupt: {file}: not JSON.*skip_corrupt"):
        alfworld_panel(tmp_path, "train")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"pddl_domain": "d"}', '{"pddl_domain": 1, "grammar": 2, "pddl_problem": 3}']
)
def test_whatever_is_no_game_is_corrupt(tmp_path: Path, content: str) -> None:
    write(tmp_path, f"{SIMPLE}-Bowl-None-Shelf-9", content=content)
    with pytest.raises(ValueError, match="corrupt"):
        alfworld_panel(tmp_path, "train")


def test_corrupt_files_are_left_out_and_logged_if_asked_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = write_many(tmp_path, count=2)
    file = write(tmp_path, f"{SIMPLE}-Bowl-None-Shelf-9", content="{")
    with caplog.at_level(logging.WARNING):
        panel = alfworld_panel(tmp_path, "train", skip_corrupt=True)
    assert len(panel) == len(names)
    assert f"left out 1 corrupt game files: {file}" in caplog.text


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"data_dir must hold json_2.1.1/train, but {tmp_path}\S+ is not a folder"):
        alfworld_panel(tmp_path, "train")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "json_2.1.1" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{tmp_path}\S+ has 0 games"):
        alfworld_panel(tmp_path, "train")


def test_a_folder_without_the_kinds_asked_for_is_named(tmp_path: Path) -> None:
    write_many(tmp_path, count=3)
    with pytest.raises(ValueError, match=rf"games of \['{HEAT}'\], but \S+ has 3 games, none of them"):
        alfworld_panel(tmp_path, "train", [HEAT])


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of .*'valid_unseen'.*, got 'test'"):
        alfworld_panel(tmp_path, "test")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kinds must be among .*, got \['pick_up'\]"):
        alfworld_panel(tmp_path, "train", ["pick_up"])


def test_a_source_of_tasks_gives_the_same_panels(tmp_path: Path) -> None:
    write_many(tmp_path, count=3)
    write_many(tmp_path, count=2, kind=HEAT)
    source = AlfworldTasks(str(tmp_path), kinds=[HEAT])
    source.prepare()
    assert source.panel("train") == alfworld_panel(tmp_path, "train", [HEAT])


def test_official_data_is_read_as_it_is(shared_data: Path) -> None:
    (task,) = alfworld_panel(shared_data / "alfworld" / "real", "train").tasks
    assert task.kind == HEAT
    assert task.task_id == f"{HEAT}-Potato-None-SinkBasin-14/trial_T20190908_231731_054988"
