"""Question files: the official columns, one's own, and what can be wrong with them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from gigpo_lightning.environments.base import check_environment
from gigpo_lightning.environments.search_qa import SearchQAEnvironment, SearchQATasks, World, search_qa_panel
from tests.environments.search_qa.retrievers import ScriptedRetriever

ROW: dict[str, Any] = {"data_source": "nq", "question": "who got the first nobel prize", "golden_answers": ["Röntgen"]}


def write_jsonl(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_parquet(file: Path, *rows: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    return file


def official(**columns: Any) -> dict[str, Any]:
    """A row of the training file that Search-R1 published."""
    question = "total number of death row inmates in the us?"
    content = (
        "Answer the given question. Search for it with <search> query </search>. Question: no.\n"
        f"For example, <answer> Beijing </answer>. Question: {question}\n"
    )
    return {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": content}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["2,718", "about 2,700"]}},
        "extra_info": {"index": 0, "split": "train"},
    } | columns


class TestAJsonlFile:
    def test_a_row_is_a_task(self, tmp_path: Path) -> None:
        (task,) = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", ROW)).tasks
        assert (task.task_id, task.kind) == ("nq/0", "nq")
        assert task.payload == {"question": "who got the first nobel prize?", "golden_answers": ("Röntgen",)}

    @pytest.mark.parametrize("question", ["who got it?", " who got it ", "who got it"])
    def test_a_question_ends_with_one_question_mark(self, tmp_path: Path, question: str) -> None:
        (task,) = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", ROW | {"question": question})).tasks
        assert task.payload["question"] == "who got it?"

    def test_a_single_answer_needs_no_list(self, tmp_path: Path) -> None:
        (task,) = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", ROW | {"golden_answers": "Röntgen"})).tasks
        assert task.payload["golden_answers"] == ("Röntgen",)

    def test_lines_without_anything_are_skipped(self, tmp_path: Path) -> None:
        (tmp_path / "q.jsonl").write_text(f"\n{json.dumps(ROW)}\n\n")
        assert len(search_qa_panel(tmp_path / "q.jsonl")) == 1

    def test_rows_of_another_split_are_left_out(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "q.jsonl", ROW | {"split": "train"}, ROW | {"split": "test"}, ROW)
        assert [task.task_id for task in search_qa_panel(file, split="test").tasks] == ["nq/1", "nq/2"]

    def test_it_keeps_the_files_order(self, tmp_path: Path) -> None:
        rows = [ROW | {"question": f"question {number}?"} for number in (3, 1, 2)]
        panel = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", *rows))
        assert [task.payload["question"] for task in panel.tasks] == ["question 3?", "question 1?", "question 2?"]


class TestAParquetFile:
    def test_the_official_columns_are_read(self, tmp_path: Path) -> None:
        (task,) = search_qa_panel(write_parquet(tmp_path / "train.parquet", official())).tasks
        assert task.kind == "nq"
        assert task.payload == {
            "question": "total number of death row inmates in the us?",
            "golden_answers": ("2,718", "about 2,700"),
        }

    def test_a_column_of_questions_goes_before_the_prompt(self, tmp_path: Path) -> None:
        row = official(question="how many inmates", golden_answers=["2,718"])
        (task,) = search_qa_panel(write_parquet(tmp_path / "train.parquet", row)).tasks
        assert task.payload == {"question": "how many inmates?", "golden_answers": ("2,718",)}

    def test_the_columns_that_verl_agent_adds_are_read(self, tmp_path: Path) -> None:
        row = official(env_kwargs={"question": "how many", "ground_truth": {"target": ["3"]}, "data_source": "nq"})
        del row["reward_model"]
        (task,) = search_qa_panel(write_parquet(tmp_path / "train.parquet", row)).tasks
        assert task.payload == {"question": "how many?", "golden_answers": ("3",)}

    def test_it_gives_the_panel_that_jsonl_gives(self, tmp_path: Path) -> None:
        rows = [ROW, ROW | {"question": "and the second?", "data_source": "popqa"}]
        parquet = search_qa_panel(write_parquet(tmp_path / "q.parquet", *rows))
        assert parquet == search_qa_panel(write_jsonl(tmp_path / "q.jsonl", *rows))

    def test_a_file_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "q.parquet").write_text("PAR")
        with pytest.raises(ValueError, match=r"q\.parquet must be a parquet file"):
            search_qa_panel(tmp_path / "q.parquet")


BAD_ROWS = [
    ({"golden_answers": []}, r"must have golden answers, each a text, got \[\] for 'who got the first nobel prize\?'"),
    ({"golden_answers": None}, "must have golden answers"),
    ({"golden_answers": [" "]}, "must have golden answers"),
    ({"golden_answers": [1901]}, "must have golden answers"),
    ({"question": ""}, "must have a question, got ''"),
    ({"question": None}, "must have a question, got None"),
    ({"question": 5}, "must have a question, got 5"),
    ({"data_source": ""}, "must have a data_source, got ''"),
    ({"data_source": None}, "must have a data_source, got None"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", ROW, ROW | change)
    with pytest.raises(ValueError, match=rf"q\.jsonl line 2 {message}"):
        search_qa_panel(file)


def test_a_bad_row_of_a_parquet_file_is_named_by_its_number(tmp_path: Path) -> None:
    bad = official(reward_model={"style": "rule", "ground_truth": {"target": []}})
    with pytest.raises(ValueError, match=r"train\.parquet row 1 must have golden answers"):
        search_qa_panel(write_parquet(tmp_path / "train.parquet", official(), bad))


@pytest.mark.parametrize(
    ("line", "message"), [("{", "must be a JSON object: "), ("[1]", "must be a JSON object, got list")]
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(ValueError, match=rf"q\.jsonl line 2 {message}"):
        search_qa_panel(tmp_path / "q.jsonl")


@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    if name.endswith("l"):
        (tmp_path / name).write_text("")
    else:
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([], pyarrow.schema([("question", pyarrow.string())])), tmp_path / name
        )
    with pytest.raises(ValueError, match=f"path must name files with questions, but .*{name} is empty"):
        search_qa_panel(tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.jsonl"):
        search_qa_panel(tmp_path / "nowhere.jsonl")


class TestWhatIsKept:
    ROWS = tuple(ROW | {"data_source": source, "question": f"question {n}?"} for n, source in enumerate("aababc"))

    def test_data_sources_can_be_chosen(self, tmp_path: Path) -> None:
        panel = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", *self.ROWS), data_sources=["b", "c"])
        assert [task.task_id for task in panel.tasks] == ["b/2", "b/4", "c/5"]

    def test_the_first_of_each_data_source_can_be_chosen(self, tmp_path: Path) -> None:
        panel = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", *self.ROWS), per_source=2)
        assert [task.task_id for task in panel.tasks] == ["a/0", "a/1", "b/2", "b/4", "c/5"]

    def test_files_follow_each_other(self, tmp_path: Path) -> None:
        files = [write_jsonl(tmp_path / "1.jsonl", ROW), write_jsonl(tmp_path / "2.jsonl", ROW, ROW)]
        assert [task.task_id for task in search_qa_panel(files).tasks] == ["nq/0", "nq/1", "nq/2"]

    def test_nothing_left_is_an_error(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "q.jsonl", ROW | {"split": "train"})
        with pytest.raises(ValueError, match=r"must hold questions of \['musique'\], but .*q\.jsonl has 1 rows"):
            search_qa_panel(file, data_sources=["musique"])
        with pytest.raises(ValueError, match="must hold questions of any data source in split 'test'"):
            search_qa_panel(file, split="test")

    def test_none_of_each_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="per_source must be >= 1, got 0"):
            search_qa_panel(tmp_path / "q.jsonl", per_source=0)


class TestATaskSource:
    def test_each_split_has_its_files(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "1.jsonl", ROW)
        write_jsonl(tmp_path / "2.jsonl", ROW, ROW)
        tasks = SearchQATasks(
            str(tmp_path), {"train": "1.jsonl", "test": ["1.jsonl", "2.jsonl"]}, per_source={"test": 2}
        )
        tasks.prepare()
        assert [len(tasks.panel(split)) for split in ("train", "test")] == [1, 2]

    def test_a_split_without_files_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"split must be one of \['train'\], the splits with files, got 'test'"):
            SearchQATasks(str(tmp_path), {"train": "1.jsonl"}).panel("test")

    def test_a_limit_for_another_split_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"per_source must name splits among \['train'\], got \['tset'\]"):
            SearchQATasks(str(tmp_path), {"train": "1.jsonl"}, per_source={"tset": 2})

    def test_it_makes_the_world_that_is_asked_for(self, tmp_path: Path) -> None:
        world = World(people=20, works=20, train=10, dev=2, test=4)
        tasks = SearchQATasks(str(tmp_path), {"test": "world/test.jsonl"}, world=world)
        tasks.prepare()
        tasks.prepare()
        assert len(tasks.panel("test")) == 4


def test_the_hash_covers_questions_and_answers(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"question": "who?"}, ROW | {"golden_answers": ["Curie"]}, ROW | {"data_source": "popqa"}]
    assert len({search_qa_panel(write_jsonl(tmp_path / "q.jsonl", row)).sha256 for row in rows}) == len(rows)


class TestTheRealQuestions:
    @pytest.fixture
    def questions(self, shared_data: Path) -> Path:
        return shared_data / "searchqa" / "questions.jsonl"

    def test_every_set_is_read(self, questions: Path) -> None:
        test = Counter(task.kind for task in search_qa_panel(questions, split="test").tasks)
        assert test == {"hotpotqa": 834, "2wikimultihopqa": 699, "nq": 618, "musique": 374, "popqa": 60}
        train = Counter(task.kind for task in search_qa_panel(questions, split="train").tasks)
        assert train == {"hotpotqa": 100, "musique": 100}

    def test_each_can_be_asked_and_answered(self, questions: Path) -> None:
        environment = SearchQAEnvironment(ScriptedRetriever([[]]))
        tasks = search_qa_panel(questions).tasks
        check_environment(environment, tasks[0])
        for task in tasks:
            question, _ = environment.reset(options={"task": task})
            assert question.endswith("?")
            assert environment.step(f"<answer>{task.payload['golden_answers'][0]}</answer>")[4]["success"]


class TestAnswersThatNormalizeToNothing:
    ROWS = (ROW, ROW | {"golden_answers": ["The The", "!!!"]}, ROW | {"golden_answers": ["the", "band"]})

    @pytest.mark.parametrize(("write", "where"), [(write_jsonl, "q.jsonl line 2"), (write_parquet, "q.parquet row 1")])
    def test_a_row_with_no_other_is_refused_by_file_and_row(self, tmp_path: Path, write: Any, where: str) -> None:
        message = rf"golden answers must be more than articles and punctuation, but .*{where} has \['The The', '!!!'\]"
        with pytest.raises(ValueError, match=message):
            search_qa_panel(write(tmp_path / where.split()[0], *self.ROWS))

    def test_a_row_that_is_not_asked_for_is_not_looked_at(self, tmp_path: Path) -> None:
        panel = search_qa_panel(write_jsonl(tmp_path / "q.jsonl", *self.ROWS), per_source=1)
        assert [task.task_id for task in panel.tasks] == ["nq/0"]

    def test_a_row_with_no_other_is_left_out_and_said_if_asked_for(self, tmp_path: Path, caplog: Any) -> None:
        write_jsonl(tmp_path / "q.jsonl", *self.ROWS)
        panel = SearchQATasks(str(tmp_path), {"train": "q.jsonl"}, skip_unanswerable=True).panel("train")
        assert [task.task_id for task in panel.tasks] == ["nq/0", "nq/2"]
        assert "left out 1 questions without an answer that counts, such as: " in caplog.text
