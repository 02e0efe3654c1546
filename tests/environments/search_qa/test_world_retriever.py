"""The invented world with the project's own BM25: what the tiny config plays."""

import pickle
from pathlib import Path

import pytest

from gigpo_lightning.environments.base import check_environment
from gigpo_lightning.environments.search_qa import (
    Bm25Retriever,
    ReadingExpert,
    SearchQAEnvironment,
    World,
    WorldRetriever,
    generate_world,
    search_qa_panel,
)
from gigpo_lightning.pool.copies import EnvironmentCopies

WORLD = World(people=60, works=60, train=40, dev=8, test=30)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search_qa")
    generate_world(folder, WORLD)
    return folder


def test_it_finds_what_bm25_finds(data_dir: Path) -> None:
    bm25 = Bm25Retriever(str(data_dir / "world" / "corpus.jsonl"))
    queries = [task.payload["question"] for task in search_qa_panel(data_dir / "world" / "test.jsonl").tasks]
    assert WorldRetriever(str(data_dir)).search(queries, 3) == bm25.search(queries, 3)


def test_it_waits_for_a_world_that_is_not_there_yet(tmp_path: Path) -> None:
    retriever = WorldRetriever(str(tmp_path))
    with pytest.raises(ValueError, match="corpus_path must be a file"):
        retriever.search(["nordby"], 1)
    generate_world(tmp_path, WORLD)
    assert retriever.search(["nordby"], 1)[0][0].title == "Nordby"


def test_a_pickled_one_is_small(data_dir: Path) -> None:
    retriever = WorldRetriever(str(data_dir))
    retriever.search(["nordby"], 1)
    assert len(pickle.dumps(retriever)) < 1000


def test_with_it_the_environment_keeps_the_rules(data_dir: Path) -> None:
    tasks = search_qa_panel(data_dir / "world" / "test.jsonl").tasks
    check_environment(SearchQAEnvironment(WorldRetriever(str(data_dir))), tasks[0])


@pytest.mark.parametrize("information_format", ["verl_agent", "search_r1"])
def test_an_expert_wins_every_question_in_either_form(data_dir: Path, information_format: str) -> None:
    environment = SearchQAEnvironment(WorldRetriever(str(data_dir)), information_format=information_format)  # type: ignore[arg-type]
    copies = EnvironmentCopies(environment)
    expert = ReadingExpert()
    for task in search_qa_panel(data_dir / "world" / "test.jsonl").tasks:
        event = copies.carry_out(0, task)
        expert.reset(event.instruction, event.observation)
        while not (event.terminated or event.truncated or event.failure):
            event = copies.carry_out(0, expert.act(event.observation, ()))
        assert event.success, (task, event)
        assert event.metrics["retriever_calls"] == {"one_hop": 1, "two_hop": 2}[task.kind]
