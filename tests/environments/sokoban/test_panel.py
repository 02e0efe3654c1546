"""Levels by seed, and panels of them."""

from collections import Counter
from typing import Any

import pytest

from gigpo_lightning.environments.sokoban import Level, SokobanTasks, generate_level, panel, sokoban_panel, solve
from gigpo_lightning.environments.splits import check_source

FEW = {"num_train": 40, "num_held_out": 20}


def levels(split: str, **settings: Any) -> list[str]:
    return [task.payload["level"] for task in sokoban_panel(split, **settings).tasks]


def turned(text: str) -> str:
    return "\n".join(" ".join(row) for row in zip(*[row.split() for row in text.splitlines()][::-1], strict=True))


def mirrored(text: str) -> str:
    return "\n".join(row[::-1] for row in text.splitlines())


def test_a_seed_makes_the_same_level_on_every_machine() -> None:
    assert generate_level(2, size=6).text().splitlines() == [
        "# # # # # #",
        "# _ _ O _ #",
        "# _ _ _ _ #",
        "# _ # X _ #",
        "# _ # P # #",
        "# # # # # #",
    ]


def test_a_level_has_its_size_its_boxes_and_none_of_them_on_a_target() -> None:
    for seed in range(10):
        level = generate_level(seed, size=8, num_boxes=3)
        assert (level.width, len(level.floor), len(level.boxes)) == (8, 64, 3)
        assert not level.boxes & level.targets


def test_levels_of_the_papers_size_need_between_two_and_thirty_moves() -> None:
    lengths = [len(solve(generate_level(seed)) or ()) for seed in range(200)]
    assert (min(lengths), max(lengths) <= 30) == (2, True)


def test_it_keeps_the_rules_of_sources() -> None:
    check_source(SokobanTasks(**FEW), ("train", "valid", "test"))


def test_no_level_is_there_twice_also_turned_or_mirrored() -> None:
    views: Counter[str] = Counter()
    for split in ("train", "valid", "test"):
        for text in levels(split, num_train=200, num_held_out=50):
            found = set()
            for _ in range(4):
                text = turned(text)
                found |= {text, mirrored(text)}
            views.update(found)
    assert max(views.values()) == 1


@pytest.mark.slow
def test_the_panels_of_a_seed_are_the_same_on_every_machine() -> None:
    hashes = {split: sokoban_panel(split, num_train=64).sha256[:16] for split in ("train", "valid", "test")}
    assert hashes == {"train": "8a4cf1aedf616e31", "valid": "7039715106e209b3", "test": "a9fef67134b04a14"}


def test_held_out_levels_do_not_depend_on_the_number_of_training_levels() -> None:
    assert levels("test", num_train=10) == levels("test", num_train=20)


@pytest.mark.slow
def test_more_training_levels_begin_with_the_fewer() -> None:
    assert levels("train", num_train=20)[:10] == levels("train", num_train=10)


def test_a_kind_says_how_many_moves_a_shortest_solution_has() -> None:
    for task in sokoban_panel("valid", num_held_out=40).tasks:
        number = len(solve(Level.parse(task.payload["level"])) or ())
        assert task.kind == ("short" if number <= 5 else "medium" if number <= 10 else "long")


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \('test', 'train', 'valid'\), got 'dev'"):
        sokoban_panel("dev")


def test_more_levels_than_there_are_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "_MOST_IN_VAIN", 5)
    with pytest.raises(ValueError, match="must not ask for more levels than there are: of size 5, num_boxes 1 and"):
        sokoban_panel("train", size=5)


def test_levels_of_some_kinds_alone_can_be_asked_for() -> None:
    kinds = [task.kind for task in sokoban_panel("train", kinds=["long"], num_train=10, num_held_out=1).tasks]
    assert kinds == ["long"] * 10


@pytest.mark.parametrize("kinds", [[], ["short", "easy"]])
def test_unknown_kinds_are_refused(kinds: list[str]) -> None:
    with pytest.raises(ValueError, match=r"kinds must be among \('short', 'medium', 'long'\), got \["):
        SokobanTasks(kinds=kinds)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("size", 4), ("size", 11), ("num_boxes", 0), ("num_boxes", 3), ("seed", -1), ("num_train", 0)],
)
def test_settings_out_of_their_range_are_refused(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be"):
        SokobanTasks(**{argument: value})
