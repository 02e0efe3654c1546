"""The passages of a file: one JSON document a line, plain or gzipped, as wiki-18 has them."""

import gzip
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.retrieval.messages import join_contents, parse_document
from gigpo_lightning.strict_json import load_json

_BLOCK = 1 << 26


class Corpus:
    """Passages by their row, read where they lie: a plain file is mapped, a gzipped one is unpacked into memory.

    Only the rows' places are kept beside the file's bytes, so that 14 MB of passages take 14 MB and not the several
    times that of as many Python strings. A line that is no document is found when it is read.

    Args:
        path: A ``.jsonl`` or ``.jsonl.gz`` file; an object with ``id`` and ``contents``, or ``title`` and ``text``, a
            line.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds no line, or is no whole gzip file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._content = _content(self.path)
        if not self._content:
            raise ValueError(f"{self.path} must hold at least one passage, got an empty file")
        self._ends = _line_ends(self._content)

    def __len__(self) -> int:
        return len(self._ends)

    def passage(self, row: int, score: float = 0.0) -> Passage:
        """Read one passage; without an ``id`` it gets its row.

        Raises:
            ValueError: If its line is no document; the message names file and line.
        """
        start = int(self._ends[row - 1]) + 1 if row else 0
        try:
            document = load_json(self._content[start : int(self._ends[row])])
            return parse_document(document, score=score, default_id=str(row))
        except ValueError as error:  # JSON and UTF-8 errors are such
            raise ValueError(f"{self.path}, line {row + 1}: {error}") from error

    def contents(self) -> Iterator[str]:
        """Title and text of every passage, in order.

        Raises:
            ValueError: At the first line that is no document; the message names file and line.
        """
        for row in range(len(self)):
            passage = self.passage(row)
            yield join_contents(passage.title, passage.text)


def _content(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        if path.suffix == ".gz":
            try:
                return gzip.GzipFile(fileobj=file).read()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(f"{path} must be a whole gzip file: {error}") from error
        if not path.stat().st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _line_ends(content: bytes | mmap.mmap) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each line ends, its line break left out; a last line may lack it."""
    ends = []
    for start in range(0, len(content), _BLOCK):
        block = np.frombuffer(content[start : start + _BLOCK], dtype=np.uint8)
        ends.append(np.flatnonzero(block == ord("\n")) + start)
    if content and content[-1:] != b"\n":
        ends.append(np.array([len(content)]))
    return np.concatenate(ends).astype(np.int64, copy=False)
