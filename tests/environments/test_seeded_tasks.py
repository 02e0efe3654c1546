"""Tasks made by seeds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.seeded_tasks import SeededTasks, seed_of
from gigpo_lightning.environments.splits import check_source

SPLITS = {"train": [0, 3], "test": [4, 5]}


def payloads(tasks: SeededTasks, split: str) -> list[dict[str, Any]]:
    return [dict(task.payload) for task in tasks.panel(split).tasks]


def test_a_range_has_both_its_ends() -> None:
    assert payloads(SeededTasks(SPLITS), "train") == [{"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": 3}]


def test_each_id_is_played_with_each_seed_and_the_first_tasks_are_of_all_ids() -> None:
    tasks = SeededTasks(SPLITS, ids=["maze", "sudoku"]).panel("test").tasks
    assert [task.task_id for task in tasks] == ["maze/4", "sudoku/4", "maze/5", "sudoku/5"]
    assert [task.kind for task in tasks] == ["maze", "sudoku", "maze", "sudoku"]


def test_a_payload_goes_to_every_task_and_an_ids_own_to_its_tasks() -> None:
    tasks = SeededTasks({"dev": [7, 7]}, ids={"maze": {"size": 3}, "sudoku": {}}, payload={"hard": True})
    assert payloads(tasks, "dev") == [
        {"seed": 7, "id": "maze", "size": 3, "hard": True},
        {"seed": 7, "id": "sudoku", "hard": True},
    ]


def test_the_key_of_the_id_can_be_named() -> None:
    assert payloads(SeededTasks({"dev": [7, 7]}, ids=["boil"], id_key="task"), "dev") == [{"seed": 7, "task": "boil"}]


def test_it_keeps_the_rules_of_sources() -> None:
    check_source(SeededTasks(SPLITS, ids=["maze", "sudoku"]), ("train", "test"))


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'test'\], got 'tset'"):
        SeededTasks(SPLITS).panel("tset")


def test_other_payloads_give_another_hash() -> None:
    hashes = {
        SeededTasks(SPLITS, **given).panel("train").sha256
        for given in ({}, {"payload": {"size": 3}}, {"payload": {"size": 4}}, {"ids": ["maze"]})
    }
    assert len(hashes) == 4


def test_the_order_in_which_a_payload_is_written_changes_no_hash() -> None:
    one, other = ({"size": 3, "hard": True}, {"hard": True, "size": 3})
    assert SeededTasks(SPLITS, payload=one).panel("train") == SeededTasks(SPLITS, payload=other).panel("train")


def test_a_panels_hash_is_the_same_on_every_machine() -> None:
    sha256 = SeededTasks(SPLITS, ids={"maze": {"size": 3}}).panel("train").sha256
    assert sha256 == "81ed3c6d979590e59d99d4311caa81a59a3e2807b62e3a51f1f622dca12bfc2b"


@given(bounds=st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_two_ranges_are_taken_exactly_if_no_seed_is_in_both(bounds: list[int]) -> None:
    (a, b), (c, d) = sorted(bounds[:2]), sorted(bounds[2:])
    shared = set(range(a, b + 1)) & set(range(c, d + 1))
    if shared:
        with pytest.raises(ValueError, match="splits must not overlap, but 'one' and 'other' both have seed"):
            SeededTasks({"one": [a, b], "other": [c, d]})
    else:
        tasks = SeededTasks({"one": [a, b], "other": [c, d]})
        assert len(tasks.panel("one")) + len(tasks.panel("other")) == b - a + d - c + 2


@pytest.mark.parametrize("bounds", [[], [1], [2, 1], [-1, 3], [0, 1, 2], [0, 2**32], [True, 2]])
def test_a_range_is_two_seeds_in_order(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"splits\['train'\] must be its first and last seed, both in \[0, 4294967295"):
        SeededTasks({"train": bounds})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"splits": {}}, "splits must name at least one split"),
        ({"ids": []}, "ids must name at least one, or be left out"),
        ({"ids": ["maze", "maze"]}, "ids must name each once, got 'maze' twice"),
        ({"ids": ["maze"], "id_key": "seed"}, "id_key must not be 'seed'"),
        ({"payload": {"seed": 3}}, "payload must leave the key 'seed' free"),
        ({"ids": ["maze"], "payload": {"id": 3}}, "payload must leave the key 'id' free"),
        ({"ids": {"maze": {"size": 3}}, "payload": {"size": 4}}, r"ids\['maze'\] must leave the key 'size' free"),
        ({"payload": {"size": {3}}}, r"must be what JSON can write, got \{'size': \{3\}\}"),
        ({"splits": {"train": [0, 2**32 - 1]}}, r"splits\['train'\] must be in \[1, 1000000\], got 4294967296: tasks"),
    ],
)
def test_what_cannot_be_listed_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeededTasks(**{"splits": SPLITS, **arguments})


def test_an_environment_reads_the_task_and_its_seed() -> None:
    task = SeededTasks(SPLITS).panel("test").tasks[1]
    assert seed_of({"task": task}) == (task, 5)


@pytest.mark.parametrize(
    "options", [None, {}, {"task": "maze"}, {"task": Task(task_id="maze", kind="maze", payload={"level": 3})}]
)
def test_a_task_without_a_seed_is_refused(options: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match="options must have a 'task' whose payload has a seed, as SeededTasks lists"):
        seed_of(options)
