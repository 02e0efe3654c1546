"""Panels of questions, from the official files or from one's own."""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.search_qa.offline.generator import World, generate_world
from gigpo_lightning.environments.search_qa.scoring import normalize_answer
from gigpo_lightning.errors import check_count
from gigpo_lightning.strict_json import load_json

_logger = logging.getLogger(__name__)
_COLUMNS = ("data_source", "question", "golden_answers", "reward_model", "env_kwargs", "prompt", "split")
_BEFORE_QUESTION = "Question:"  # what ends the instructions of the official prompts


def search_qa_panel(
    path: str | Path | Sequence[str | Path],
    split: str | None = None,
    data_sources: Sequence[str] | None = None,
    per_source: int | None = None,
    skip_unanswerable: bool = False,
) -> TaskPanel:
    """List the questions of one or more files, in the files' order; a task's kind is its data source.

    A row is one of JSONL, ``{data_source, question, golden_answers}``, or of the official parquet files, whose golden
    answers are in ``reward_model.ground_truth.target`` and whose question is a column, in ``env_kwargs``, or the end of
    the prompt. A question that does not end with a question mark gets one.

    The other arguments are those of ``SearchQATasks``; rows whose own column ``split`` names another are left out.

    Raises:
        ValueError: If a file cannot be read, a row lacks its question or answers, its golden answers all normalize to
            nothing, or nothing is left; the message names the file and the row.
    """
    check_count("per_source", 1 if per_source is None else per_source)
    files = [Path(each) for each in ([path] if isinstance(path, str | Path) else path)]
    tasks: list[Task] = []
    kept: Counter[str] = Counter()
    unanswerable: list[str] = []
    num_rows = 0
    for where, row in itertools.chain.from_iterable(map(_rows, files)):
        num_rows += 1
        if split is not None and row.get("split") not in (None, split):
            continue
        task = _task(num_rows - 1, row, where)
        if data_sources is not None and task.kind not in data_sources:
            continue
        if per_source is not None and kept[task.kind] == per_source:
            continue
        if not any(map(normalize_answer, task.payload["golden_answers"])):
            unanswerable.append(f"{where} has {list(task.payload['golden_answers'])} for {task.payload['question']!r}")
            continue
        kept[task.kind] += 1
        tasks.append(task)
    _report_unanswerable(unanswerable, skip_unanswerable)
    if not tasks:
        wanted = "any data source" if data_sources is None else str(list(data_sources))
        of_split = "" if split is None else f" in split {split!r}"
        raise ValueError(
            f"path must hold questions of {wanted}{of_split}, but {', '.join(map(str, files))} has {num_rows} rows, "
            "none of them"
        )
    return TaskPanel.from_tasks(tasks)


class SearchQATasks:
    """Where a run's questions come from.

    Args:
        data_dir: The folder that holds, or will hold, the files.
        files: Files of each split, relative to ``data_dir``: one, or several.
        data_sources: Keep only these; default: all.
        per_source: Of these splits keep only so many questions of each data source, its first.
        world: Make this invented world in ``data_dir`` if it is not there yet; default: only read.
        skip_unanswerable: Leave out questions whose golden answers all normalize to nothing, such as "The The".

    Raises:
        ValueError: If ``per_source`` names a split without a file.
    """

    def __init__(
        self,
        data_dir: str,
        files: dict[str, str | list[str]],
        data_sources: list[str] | None = None,
        per_source: dict[str, int] | None = None,
        world: World | None = None,
        skip_unanswerable: bool = False,
    ) -> None:
        unknown = sorted(set(per_source or {}) - set(files))
        if unknown:
            raise ValueError(f"per_source must name splits among {sorted(files)}, got {unknown}")
        for split, number in (per_source or {}).items():
            check_count(f"per_source.{split}", number)
        self.data_dir = data_dir
        self.files = files
        self.data_sources = data_sources
        self.per_source = per_source or {}
        self.world = world
        self.skip_unanswerable = skip_unanswerable

    def prepare(self) -> None:
        """Make the world, if one is asked for; at once where it exists."""
        if self.world is not None:
            generate_world(self.data_dir, self.world)

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel, as ``search_qa_panel`` lists it.

        Raises:
            ValueError: If the split has no file.
        """
        if split not in self.files:
            raise ValueError(f"split must be one of {sorted(self.files)}, the splits with files, got {split!r}")
        named = self.files[split]
        names = [named] if isinstance(named, str) else named
        paths = [Path(self.data_dir) / name for name in names]
        return search_qa_panel(paths, split, self.data_sources, self.per_source.get(split), self.skip_unanswerable)


def _report_unanswerable(found: Sequence[str], skip: bool) -> None:
    """Refuse questions that nobody can answer, or say that they are skipped."""
    if not found:
        return
    if not skip:
        raise ValueError(
            f"golden answers must be more than articles and punctuation, but {found[0]}; skip_unanswerable: true "
            f"leaves out the {len(found)} questions like it"
        )
    _logger.warning("left out %d questions without an answer that counts, such as: %s", len(found), found[0])


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with where it stands."""
    if not file.is_file():
        raise ValueError(f"path must name question files, but there is no file {file}")
    rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
    empty = True
    for where, row in rows:
        empty = False
        yield where, row
    if empty:
        raise ValueError(f"path must name files with questions, but {file} is empty")


def _json_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                row = load_json(line)
            except ValueError as error:  # of JSON or of UTF-8
                raise ValueError(f"{where} must be a JSON object: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where} must be a JSON object, got {type(row).__name__}")
            yield where, row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(f"{file} must be a parquet file: {error}") from error
    there = set(table.schema_arrow.names)
    not_needed = {"prompt"} if "question" in there else set()  # it is most of a file
    columns = [name for name in _COLUMNS if name in there - not_needed]
    rows = (row for batch in table.iter_batches(columns=columns) for row in batch.to_pylist())
    for number, row in enumerate(rows):
        yield f"{file} row {number}", row


def _task(index: int, row: Mapping[str, Any], where: str) -> Task:
    """The task of a row, which must have a data source, a question and answers."""
    source = row.get("data_source")
    if not isinstance(source, str) or not source:
        raise ValueError(f"{where} must have a data_source, got {source!r}")
    question = _question(row)
    if not question:
        raise ValueError(f"{where} must have a question, got {row.get('question')!r}")
    answers = _answers(row)
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError(f"{where} must have golden answers, each a text, got {answers!r} for {question!r}")
    fingerprint = hashlib.sha256(json.dumps([question, answers]).encode()).hexdigest()
    return Task(
        task_id=f"{source}/{index}",
        kind=source,
        payload={"question": question, "golden_answers": tuple(answers)},
        fingerprint=fingerprint,
    )


def _question(row: Mapping[str, Any]) -> str:
    """The question, with its question mark; empty if the row has none."""
    said = row.get("question") or _inside(row, "env_kwargs", "question") or _end_of_prompt(row)
    question = said.strip() if isinstance(said, str) else ""
    return question if not question or question.endswith("?") else question + "?"


def _end_of_prompt(row: Mapping[str, Any]) -> str:
    """The text after the instructions in the last message of an official prompt."""
    messages = row.get("prompt")
    content = _inside({"last": messages[-1]}, "last", "content") if isinstance(messages, list) and messages else None
    return content.rpartition(_BEFORE_QUESTION)[2] if isinstance(content, str) and _BEFORE_QUESTION in content else ""


def _answers(row: Mapping[str, Any]) -> list[Any]:
    places = (("golden_answers",), ("reward_model", "ground_truth", "target"), ("env_kwargs", "ground_truth", "target"))
    for place in places:
        answers = _inside(row, *place)
        if isinstance(answers, str):
            return [answers]
        if isinstance(answers, list) and answers:
            return answers
    return []


def _inside(row: Mapping[str, Any], *keys: str) -> Any:
    """The value under these keys of nested mappings; None if one is missing."""
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
