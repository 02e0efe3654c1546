import gzip
import json
from pathlib import Path

import pytest

from gigpo_lightning.retrieval import Passage
from gigpo_lightning.retrieval.corpus import Corpus

LINES = [
    {"id": "7", "contents": '"Paris"\nThe capital\nof France.'},
    {"id": 8, "title": "東京", "text": "首都"},
    {"contents": "no title, no id"},
]


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
@pytest.mark.parametrize("ending", ["\n", "", "\r\n"])
def test_passages_are_read_by_their_row(tmp_path, name, ending) -> None:
    line_break = ending or "\n"
    text = line_break.join(json.dumps(line, ensure_ascii=False) for line in LINES) + ending
    corpus = Corpus(write(tmp_path / name, text))
    assert len(corpus) == 3
    assert corpus.passage(2, 0.5) == Passage(id="2", title="", text="no title, no id", score=0.5)
    assert corpus.passage(1) == Passage(id="8", title="東京", text="首都", score=0.0)
    assert corpus.passage(0) == Passage(id="7", title="Paris", text="The capital\nof France.", score=0.0)


def test_contents_have_the_title_first(tmp_path) -> None:
    text = "\n".join(json.dumps(line) for line in LINES)
    contents = list(Corpus(write(tmp_path / "corpus.jsonl", text)).contents())
    assert contents == ['"Paris"\nThe capital\nof France.', '"東京"\n首都', "no title, no id"]


def test_lines_are_found_across_blocks(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "corpus.jsonl", "\n".join(json.dumps(line) for line in LINES))
    wanted = list(Corpus(path).contents())
    for block in (1, 7, 64):
        monkeypatch.setattr("gigpo_lightning.retrieval.corpus._BLOCK", block)
        assert list(Corpus(path).contents()) == wanted


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "1", "contents": "a"', "Expecting"),
        (b"", "Expecting value"),
        (b'{"id": "1"}', "a document must have 'contents'"),
        (b'{"id": "1", "contents": null}', "a document must have 'contents'"),
        (b"[1, 2]", "a document must be an object"),
        (b'{"contents": "\xff"}', "can't decode"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path, line, reason) -> None:
    path = write(tmp_path / "corpus.jsonl", b'{"contents": "good"}\n' * 2 + line + b'\n{"contents": "good"}\n')
    corpus = Corpus(path)
    assert corpus.passage(3).text == "good"
    with pytest.raises(ValueError, match=rf"corpus\.jsonl, line 3: .*{reason}"):
        list(corpus.contents())


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path, name) -> None:
    with pytest.raises(ValueError, match=rf"{name} must hold at least one passage"):
        Corpus(write(tmp_path / name, ""))


@pytest.mark.parametrize(
    "broken",
    [b"no gzip at all", gzip.compress(b"{}" * 1000)[:-9], b"\x1f\x8b\x08\x00garbage"],
    ids=["other", "cut off", "garbage"],  # a header has the time in it
)
def test_a_broken_gzip_file_is_refused(tmp_path, broken) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz must be a whole gzip file"):
        Corpus(path)
