"""What a source of demonstrations gives: rows of tokens, and which of them are learnt."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from gigpo_lightning.errors import check_range
from gigpo_lightning.prompts.base import Tokenizer


@runtime_checkable
class EndingTokenizer(Tokenizer, Protocol):
    """A tokenizer that can end a reply."""

    @property
    def end_token_id(self) -> int:
        """The token that ends a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row that is learnt: a prompt, and what the policy should write after it.

    Attributes:
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of what follows, end tokens included.
        written: Which of ``reply_ids`` the policy should write; None if all. The others are the environment's answers
            between its replies.
    """

    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    written: tuple[bool, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return len(self.prompt_ids) + len(self.reply_ids)


Episode = Sequence[Example]


@runtime_checkable
class DemonstrationSource(Protocol):
    """Where demonstrations come from; chosen by ``class_path``."""

    def prepare(self) -> None:
        """Make or check what is on disk; called on one process of a machine."""

    def episodes(self, tokenizer: EndingTokenizer, *, held_out: bool, seed: int) -> list[Episode]:
        """Give the demonstrations, episode by episode, as rows of tokens.

        Args:
            tokenizer: The policy's.
            held_out: Whether to give the episodes that are kept from training; there may be none.
            seed: Of whatever is drawn.

        Raises:
            ValueError: If something in the source is wrong; the message says where.
        """


class FileDemonstrations(ABC):
    """Demonstrations in files, a part of which is kept from training; a subclass reads one file.

    Args:
        files: Files, or folders of them.
        held_out_files: Files, or folders, that the loss is measured on; default: a share of ``files``.
        held_out_share: Share of ``files`` that is kept from training, if there are no ``held_out_files``; episodes that
            begin alike stay together.

    Raises:
        ValueError: If the share is not in [0, 0.9].
    """

    pattern: ClassVar[str]
    """Names of a folder's files, such as ``"*.jsonl"``."""

    def __init__(self, files: str | list[str], held_out_files: str | list[str] | None, held_out_share: float) -> None:
        check_range("held_out_share", held_out_share, 0.0, 0.9)
        self.files = files
        self.held_out_files = held_out_files
        self.held_out_share = held_out_share

    @abstractmethod
    def read(self, path: Path, tokenizer: EndingTokenizer) -> list[Episode]:
        """The episodes of one file as rows of tokens.

        Raises:
            ValueError: At the first thing that is wrong; the message names the file.
        """

    def paths(self, *, held_out: bool) -> list[Path]:
        """The files of one part; none is held out where a share is.

        Raises:
            ValueError: If a path does not exist, or a folder holds no such file.
        """
        if not held_out:
            return found_files("files", self.files, self.pattern)
        return [] if self.held_out_files is None else found_files("held_out_files", self.held_out_files, self.pattern)

    def episodes(self, tokenizer: EndingTokenizer, *, held_out: bool, seed: int) -> list[Episode]:
        """The episodes of one part as rows of tokens.

        Raises:
            ValueError: As ``paths`` and ``read``.
        """
        if self.held_out_files is not None:
            return self.read_all(self.paths(held_out=held_out), tokenizer)
        found = self.read_all(self.paths(held_out=False), tokenizer)
        return held_out_part(found, self.held_out_share, held_out=held_out)

    def read_all(self, paths: Sequence[Path], tokenizer: EndingTokenizer) -> list[Episode]:
        """The episodes of several files.

        Raises:
            ValueError: As ``read``.
        """
        return [episode for path in paths for episode in self.read(path, tokenizer)]


def merge_turns(turns: Sequence[Example]) -> list[Example]:
    """Put successive turns into one row where each prompt begins with all that was shown and written before.

    A conversation that grows is then read once and not once a turn: the same tokens are learnt after the same tokens.

    Example:
        >>> one = Example(prompt_ids=(1,), reply_ids=(2,))
        >>> merge_turns([one, Example(prompt_ids=(1, 2, 3), reply_ids=(4,))])
        [Example(prompt_ids=(1,), reply_ids=(2, 3, 4), written=(True, False, True))]
    """
    rows: list[Example] = []
    for turn in turns:
        before = (*rows[-1].prompt_ids, *rows[-1].reply_ids) if rows else ()
        if not rows or turn.prompt_ids[: len(before)] != before:
            rows.append(turn)
            continue
        shown = turn.prompt_ids[len(before) :]
        last = rows[-1]
        written = (*_written(last), *(False for _ in shown), *_written(turn))
        reply_ids = (*last.reply_ids, *shown, *turn.reply_ids)
        rows[-1] = Example(prompt_ids=last.prompt_ids, reply_ids=reply_ids, written=written)
    return rows


def held_out_part(episodes: Sequence[Episode], share: float, *, held_out: bool) -> list[Episode]:
    """One of the two parts that a share cuts episodes into, in their order; at least one prompt is learnt.

    Episodes that begin with the same prompt, such as attempts at one task, stay together. Which prompts are held out
    follows from their tokens alone, in whatever order the episodes come.
    """
    keys = [_key(episode) for episode in episodes]
    ordered = sorted(set(keys))
    kept = set(ordered[: min(math.ceil(share * len(ordered)), len(ordered) - 1)])
    return [episode for episode, key in zip(episodes, keys, strict=True) if (key in kept) == held_out]


def found_files(argument: str, given: str | Sequence[str], pattern: str) -> list[Path]:
    """The files that are named, and those of the folders that are named.

    Args:
        argument: Its name in a message.
        given: Paths of files and folders.
        pattern: Names of a folder's files, such as ``"*.jsonl"``.

    Raises:
        ValueError: If a path does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, [given] if isinstance(given, str) else given):
        found = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            what = f"a folder with files {pattern}" if path.is_dir() else "a file or a folder that exists"
            raise ValueError(f"{argument} must name {what}, got {str(path)!r}")
        files += found
    return files


def _written(row: Example) -> tuple[bool, ...]:
    return row.written if row.written is not None else (True,) * len(row.reply_ids)


def _key(episode: Episode) -> bytes:
    """Stands for the prompt that an episode begins with."""
    return hashlib.sha256(repr(episode[0].prompt_ids).encode()).digest()
