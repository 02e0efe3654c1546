"""The invented world: the same everywhere, fair, and winnable by one who searches twice."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.base import TaskPanel
from gigpo_lightning.environments.search_qa import (
    ReadingExpert,
    SearchQAEnvironment,
    SearchQATasks,
    World,
    generate_world,
    search_qa_words,
)
from gigpo_lightning.environments.search_qa.offline.generator import SPLITS
from tests.environments.search_qa.retrievers import WordRetriever

SMALL = World(people=60, works=60, train=40, dev=9, test=30)
FILES: dict[str, str | list[str]] = {split: f"world/{split}.jsonl" for split in SPLITS}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search_qa")
    generate_world(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def retriever(data_dir: Path) -> WordRetriever:
    return WordRetriever(data_dir / "world" / "corpus.jsonl")


def rows(data_dir: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data_dir / "world" / f"{split}.jsonl").read_text().splitlines()]


def panel(data_dir: Path, split: str) -> TaskPanel:
    return SearchQATasks(str(data_dir), FILES).panel(split)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "world").iterdir())}


def test_the_same_settings_give_the_same_files(data_dir: Path, tmp_path: Path) -> None:
    generate_world(tmp_path, SMALL)
    assert content(tmp_path) == content(data_dir)


def test_another_seed_gives_another_world(data_dir: Path, tmp_path: Path) -> None:
    generate_world(tmp_path, World(seed=1, people=60, works=60, train=40, dev=9, test=30))
    assert content(tmp_path)["corpus.jsonl"] != content(data_dir)["corpus.jsonl"]


def test_its_panel_is_the_same_on_every_machine(data_dir: Path) -> None:
    assert panel(data_dir, "test").sha256[:16] == "b1a8bee3c63d5dac"


def test_the_corpus_has_the_form_of_wiki_18(data_dir: Path) -> None:
    for line in (data_dir / "world" / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row.keys() == {"id", "contents"}
        assert re.fullmatch(r'"[A-Z][\w ]+"\n[A-Z].*\.', row["contents"])


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_the_questions_need_two_searches(data_dir: Path, split: str) -> None:
    kinds = [row["data_source"] for row in rows(data_dir, split)]
    assert len(kinds) == getattr(SMALL, split)
    assert kinds.count("two_hop") == len(kinds) // 2


def test_no_question_is_in_two_splits(data_dir: Path) -> None:
    questions = [row["question"] for split in SPLITS for row in rows(data_dir, split)]
    assert len(set(questions)) == len(questions)


def test_no_subject_is_asked_about_in_two_splits(data_dir: Path) -> None:
    subjects = [{row["gold_titles"][0] for row in rows(data_dir, split)} for split in SPLITS]
    assert not subjects[0] & subjects[1]
    assert not subjects[0] & subjects[2]
    assert not subjects[1] & subjects[2]


def test_two_searches_are_needed_because_the_question_does_not_find_the_second_passage(
    data_dir: Path, retriever: WordRetriever
) -> None:
    two_hop = [row for row in rows(data_dir, "train") + rows(data_dir, "test") if row["data_source"] == "two_hop"]
    found = [{each.title for each in retriever.search([row["question"]], 3)[0]} for row in two_hop]
    first = [row["gold_titles"][0] in titles for row, titles in zip(two_hop, found, strict=True)]
    second = [row["gold_titles"][1] in titles for row, titles in zip(two_hop, found, strict=True)]
    assert sum(first) / len(first) > 0.9
    assert sum(second) / len(second) < 0.2


def test_the_second_name_is_not_in_the_question_and_is_in_the_first_passage(
    data_dir: Path, retriever: WordRetriever
) -> None:
    texts = {each.title: each.text for each in retriever.passages}
    for row in rows(data_dir, "test"):
        titles = row["gold_titles"]
        assert row["golden_answers"][0] in texts[titles[-1]]
        if row["data_source"] == "two_hop":
            assert titles[1] not in row["question"]
            assert titles[1] in texts[titles[0]]


def play(data_dir: Path, retriever: WordRetriever, expert: ReadingExpert) -> list[tuple[str, bool, int]]:
    """Kind, success and turns of every test episode."""
    environment = SearchQAEnvironment(retriever, information_format="search_r1")
    outcomes = []
    for task in panel(data_dir, "test").tasks:
        observation, info = environment.reset(options={"task": task})
        expert.reset(info["instruction"], observation)
        turns, over = 0, False
        while not over:
            observation, _, terminated, truncated, info = environment.step(expert.act(observation, ()))
            turns, over = turns + 1, terminated or truncated
        outcomes.append((task.kind, info["success"], turns))
    return outcomes


def test_an_expert_who_reads_wins_every_episode_with_a_search_a_hop(data_dir: Path, retriever: WordRetriever) -> None:
    outcomes = play(data_dir, retriever, ReadingExpert())
    assert {(kind, turns) for kind, _, turns in outcomes} == {("one_hop", 2), ("two_hop", 3)}
    assert all(success for _, success, _ in outcomes)


def test_what_an_expert_says_is_made_of_words_and_tags() -> None:
    expert = ReadingExpert()
    expert.reset("Who wrote The Silver Lantern?", "")
    assert expert.act("", ()) == "<search> silver lantern </search>"
    assert expert.act("The Silver Lantern is a novel written by Mila Torv.", ()) == "<answer> mila torv </answer>"


def test_one_in_a_haste_wins_some(data_dir: Path, retriever: WordRetriever) -> None:
    outcomes = play(data_dir, retriever, ReadingExpert(haste=0.5))
    assert 0 < sum(success for _, success, _ in outcomes) < 0.8 * len(outcomes)
    assert play(data_dir, retriever, ReadingExpert(haste=0.5)) == outcomes


def test_one_who_never_reads_wins_none(data_dir: Path, retriever: WordRetriever) -> None:
    assert not any(success for _, success, _ in play(data_dir, retriever, ReadingExpert(haste=1.0)))


@pytest.mark.parametrize("haste", [-0.1, 1.1])
def test_haste_out_of_range_is_refused(haste: float) -> None:
    with pytest.raises(ValueError, match=f"haste must be in .*, got {haste}"):
        ReadingExpert(haste=haste)


def test_an_expert_of_this_world_knows_no_other_questions() -> None:
    with pytest.raises(ValueError, match="instruction must be a question of the invented world, got 'who are you'"):
        ReadingExpert().reset("who are you", "")


def test_every_word_of_the_world_is_in_the_vocabulary(data_dir: Path, retriever: WordRetriever) -> None:
    said = [f"{each.title} {each.text}" for each in retriever.passages]
    said += [row["question"] for split in SPLITS for row in rows(data_dir, split)]
    assert {word for text in said for word in re.findall(r"\w+", text.lower())} <= set(search_qa_words())


def test_a_world_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    generate_world(tmp_path, SMALL)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "world").iterdir()}
    generate_world(tmp_path, SMALL)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "world").iterdir()} == times


def test_a_world_of_other_settings_is_not_taken_for_it(tmp_path: Path) -> None:
    generate_world(tmp_path, SMALL)
    with pytest.raises(ValueError, match="world made with people 60 instead of 70; choose another data_dir"):
        generate_world(tmp_path, World(people=70, works=60, train=40, dev=9, test=30))


def test_a_world_of_unknown_making_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "corpus.jsonl").touch()
    with pytest.raises(ValueError, match=r"data_dir must be free for a world, but .* has no readable world\.json"):
        generate_world(tmp_path, SMALL)


def test_a_broken_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, text: str) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        generate_world(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_world_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(partial: Path, folder: Path) -> None:
        assert len(list(partial.iterdir())) == len(SPLITS) + 2
        assert not folder.exists()
        raise OSError("interrupted")

    monkeypatch.setattr(Path, "rename", seen)
    with pytest.raises(OSError, match="interrupted"):
        generate_world(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": 9}, r"people must be in \[10, 780\], got 9"),
        ({"people": 781}, r"people must be in \[10, 780\], got 781"),
        ({"works": 401}, r"works must be in \[10, 400\], got 401"),
        ({"train": -1}, "train must be >= 0, got -1"),
    ],
)
def test_a_world_out_of_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**settings)


def test_too_many_questions_for_a_world_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test must be small enough for a world of 10 people and 10 works, got 300"):
        generate_world(tmp_path, World(people=10, works=10, train=10, dev=0, test=300))
    assert list(tmp_path.iterdir()) == []
