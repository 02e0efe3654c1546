"""Files and folders that are there whole or not at all, and an error that says when the disk is full."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gigpo_lightning.errors import RunError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
}
_NUMBER = re.compile(r"os error (\d+)|\[?errno (\d+)", re.IGNORECASE)  # as libraries in Rust and C++ report it


class FullDiskError(RunError):
    """A file could not be written because there was no room for it."""


def no_room(error: BaseException | None) -> str:
    """Why there was no room, in words; empty if the error and its causes have other reasons.

    Libraries hide the system's error behind their own: the causes are searched, and the texts of their messages.
    """
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        found = _NUMBER.search(str(each))
        number = int(found[1] or found[2]) if found else None
        for candidate in (getattr(each, "errno", None), number):
            if candidate in _REASONS:
                return _REASONS[candidate]
        ranks: dict[int, tuple[BaseException, object]] = getattr(each, "failures", {})  # of a distributed checkpoint
        waiting += [each.__cause__, each.__context__, *(failure for failure, _ in ranks.values())]
    return ""


@contextlib.contextmanager
def room_for(path: Path | str) -> Iterator[None]:
    """Have a full disk called by its name.

    Raises:
        FullDiskError: If there is no room; other errors pass.
    """
    try:
        yield
    except BaseException as error:
        reason = no_room(error)
        if not reason or isinstance(error, FullDiskError):
            raise
        kept = "what had that name before is unharmed" if os.path.lexists(path) else "nothing of it is left"
        raise FullDiskError(
            f"{path} cannot be written: {reason}; {kept}. Make room, then start again, with --ckpt_path last to go on "
            "from the last checkpoint"
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file beside its place, which is yielded, and move it there once it is whole and on the disk.

    Its folder is made, and a folder of that name is replaced. Whatever ends the process, a file of that name is whole.
    What a killed process leaves is called ``*.partial``, which nothing reads and the next file overwrites.

    Raises:
        FullDiskError: If there is no room; the former file is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            flush(partial)
            put(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_folder(path: Path, keep_others: bool = False) -> Iterator[Path]:
    """As ``whole_file``, for a folder; while it is written it has a name with a dot.

    With ``keep_others``, files of other names that are in the folder already stay.

    Raises:
        FullDiskError: If there is no room; the former folder is still there.
    """
    unfinished = path.with_name(f".{path.name}")
    with room_for(path):
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            for file in unfinished.iterdir():
                flush(file)
            if keep_others and path.is_dir():
                for file in unfinished.iterdir():
                    put(file, path / file.name)
                unfinished.rmdir()
            else:
                put(unfinished, path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


@contextlib.contextmanager
def whole_lines(path: Path) -> Iterator[IO[str]]:
    """Add lines to a file, all of them or none; its folder is made.

    Raises:
        FullDiskError: If there is no room; the file is as it was.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else None
        try:
            with path.open("a") as file:
                yield file
        except BaseException:
            with contextlib.suppress(OSError):
                if size is None:
                    path.unlink()
                else:
                    os.truncate(path, size)
            raise


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints anywhere below a folder; of one that is a folder itself, ``meta.pt`` is written last."""
    return [path for path in folder.rglob("*.ckpt") if not path.is_dir() or (path / "meta.pt").is_file()]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file whose writer may have been killed."""
    return (json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))


def put(new: Path, path: Path) -> None:
    """Give what was written its name; it outlasts a machine that loses its power.

    A system can replace a file at once, and a folder not: an old folder is first renamed, to ``*.old`` and its ending,
    so that a process which is killed in between leaves one that can still be found.
    """
    old = path.with_name(f"{path.stem}.old{path.suffix}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.replace(path)
    flush(path.parent)
    if old.is_dir():
        shutil.rmtree(old)


def flush(path: Path) -> None:
    """Have what was written reach the disk: a file's bytes, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
