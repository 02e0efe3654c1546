"""Reading the official files entry by entry: the full product file, 5.5 GB of one JSON list, never fits in memory."""

import codecs
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22
_LONGEST_WORD = 64
"""Characters in which a number, a name such as ``false`` or an escape that a chunk has cut ends."""
_decoder = json.JSONDecoder()
_WHITE = " \t\r\n"


class JsonFile:
    """A JSON list, or an object of entries by name, whose entries are read one at a time and found again by place.

    Raises:
        ValueError: If it is not there, or empty; later on, if it is not what it must be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # of a file that is not there, and of an empty one
            raise ValueError(f"{path} must be a JSON file, but cannot be read: {error}") from error

    def entry(self, start: int, length: int) -> Any:
        """The value that a stream found there."""
        return json.loads(self._bytes[start : start + length])

    def list_entries(self) -> Iterator[tuple[int, int, Any]]:
        """Each entry of a list, after the byte that it starts at and its length in bytes.

        Raises:
            ValueError: If the file is no JSON list.
        """
        for window in self._entries("[", "]", "a list"):
            yield window.value()

    def object_entries(self) -> Iterator[tuple[str, int, int, Any]]:
        """Each name and value of an object; the value after the byte that it starts at and its length in bytes.

        Raises:
            ValueError: If the file is no JSON object.
        """
        for window in self._entries("{", "}", "an object"):
            _, _, name = window.value()
            window.expect(":", "an object")
            yield name, *window.value()

    def _entries(self, opening: str, closing: str, what: str) -> Iterator["_Window"]:
        """The file's window before each entry, which is to be taken from it."""
        window = _Window(self)
        window.expect(opening, what)
        if window.peek() == closing:
            window.expect(closing, what)
        else:
            separator = ","
            while separator == ",":
                yield window
                separator = window.expect(f",{closing}", what)
        window.expect_end()


class _Window:
    """The part of a file that is looked at, as text; it knows the byte that each value starts at."""

    def __init__(self, file: JsonFile) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._place = 0
        self._byte = 0
        """Of the place."""
        self._read = 0

    def peek(self) -> str:
        """The next character that is not white; nothing at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in _WHITE:
                    return self._text[self._place]
                self._advance(self._place + 1)
            if not self._grow():
                return ""

    def expect(self, allowed: str, what: str) -> str:
        """Take the next character."""
        found = self.peek()
        if not found or found not in allowed:
            raise self._wrong(f"{what}, with one of {allowed!r} here, got {found or 'its end'!r}")
        self._advance(self._place + 1)
        return found

    def expect_end(self) -> None:
        """Refuse what follows."""
        found = self.peek()
        if found:
            raise self._wrong(f"one value, but {found!r} follows it")

    def value(self) -> tuple[int, int, Any]:
        """Take the next value, and where it is."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                # What is wrong in the middle stays wrong; only what the chunk has cut may be mended by the next.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LONGEST_WORD
                if cut and self._grow():
                    continue
                raise self._wrong(f"whole, but {error.msg}") from error
            # A number at the window's edge may go on behind it; everything else says where it ends.
            if isinstance(value, int | float) and not self._text[end:].strip("0123456789.eE+-") and self._grow():
                continue
            start = self._byte
            self._advance(end)
            return start, self._byte - start, value

    def _advance(self, place: int) -> None:
        self._byte += len(self._text[self._place : place].encode())
        self._place = place

    def _grow(self) -> bool:
        """Read on, by as much as is there already if an entry is longer than a chunk; False at the file's end."""
        self._text, self._place = self._text[self._place :], 0
        chunk = self._file._bytes[self._read : self._read + max(_CHUNK, len(self._text))]
        self._read += len(chunk)
        try:
            self._text += self._decode.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise self._wrong(f"UTF-8, but {error.reason}") from error
        return bool(chunk)

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self._file.path} must be JSON: {what} (at byte {self._byte})")
