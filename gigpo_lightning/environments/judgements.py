"""What a judge says, read strictly, and the file that keeps it: the transcript, the cache and the account in one."""

import fcntl
import json
import logging
import math
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from gigpo_lightning.disk import room_for
from gigpo_lightning.errors import RunError, check_count
from gigpo_lightning.per_process import PerProcess
from gigpo_lightning.strict_json import load_json
from gigpo_lightning.text import count, shown, well_formed

_logger = logging.getLogger(__name__)

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_TAGGED = re.compile(r"<score>(.*?)</score>", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_BEGINNING = b'{"call": "'
"""Of every line of a record, and so of a file that is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says of an episode.

    Attributes:
        score: On the judge's scale.
        reason: In the judge's words; empty where the form asks for none.
    """

    score: float
    reason: str = ""


@runtime_checkable
class ScoreForm(Protocol):
    """How a judge is to write its score; chosen by ``class_path``."""

    def order(self, low: float, high: float) -> str:
        """What the judge is told of it."""

    def read(self, text: str) -> Verdict:
        """Read a reply, without its thoughts.

        Raises:
            ValueError: If it does not have the form.
        """


class JsonScore:
    """The reply is a JSON object with a score and a reason, and nothing else; a code fence may stand around it."""

    def order(self, low: float, high: float) -> str:
        """What the judge is told of it."""
        return (
            'Reply with one JSON object and nothing else: {"reason": "...", "score": ...}. The reason is one or two '
            f"sentences; the score is a number from {low:g} to {high:g}."
        )

    def read(self, text: str) -> Verdict:
        """Read a reply.

        Raises:
            ValueError: If it is something else.
        """
        text = text.strip()
        fenced = _FENCED.fullmatch(text)
        try:
            found = load_json(fenced[1] if fenced else text)
        except ValueError as error:
            raise ValueError(f"the reply must be a JSON object and nothing else, but: {error}") from error
        score = found.get("score") if isinstance(found, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"the reply must be a JSON object whose score is a number, got {shown(found)}")
        try:
            return Verdict(score=float(score), reason=str(found.get("reason", "")))
        except OverflowError as error:
            raise ValueError(f"the reply must be a JSON object whose score is a number: {error}") from error


class TaggedScore:
    """The reply thinks as it likes, and has exactly one score between tags; the reason is the rest."""

    def order(self, low: float, high: float) -> str:
        """What the judge is told of it."""
        return f"Think it through, then end your reply with <score>N</score>, a number from {low:g} to {high:g}."

    def read(self, text: str) -> Verdict:
        """Read a reply.

        Raises:
            ValueError: If it has no score between tags, several, or one that is no number.
        """
        found = _TAGGED.findall(text)
        if len(found) != 1 or not _NUMBER.fullmatch(found[0].strip()):
            raise ValueError(f"the reply must have one number between <score> and </score>, got {shown(found)}")
        return Verdict(score=float(found[0]), reason=_TAGGED.sub("", text).strip())


def read_verdict(form: ScoreForm, text: str, low: float, high: float) -> Verdict:
    """A judge's reply, which may begin with a thought between tags.

    Raises:
        ValueError: If it does not have the form, is a thought without an end, or the score is not on the scale.
    """
    if text.lstrip().startswith("<think>") and "</think>" not in text:
        raise ValueError("the reply must not end within its thought")
    verdict = form.read(text.rpartition("</think>")[2])
    if not (math.isfinite(verdict.score) and low <= verdict.score <= high):
        raise ValueError(f"the score must be in [{low:g}, {high:g}], got {verdict.score:g}")
    return verdict


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class Budget:
    """What a judge may cost, counted over all that its record holds.

    Attributes:
        calls: Replies that may be asked for, those that fail too; default: any number.
        tokens: Tokens that may be read and written, by the server's count; default: any number.
    """

    calls: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "tokens"):
            if getattr(self, name) is not None:
                check_count(f"budget.{name}", getattr(self, name))


class Judgements(PerProcess):
    """Every call of a judge, in a file that several processes may write: two JSON lines each, asked and answered.

    A verdict that the file has is not asked for again. What the file has is counted against the budget, so that a run
    that goes on has what is left of it. A new file begins anew.

    Args:
        path: The file.
        budget: What may be spent.

    Raises:
        ValueError: If ``path`` names something else.
    """

    def __init__(self, path: str | Path, budget: Budget = Budget()) -> None:
        self.path = Path(os.path.abspath(path))
        self.budget = budget
        if self.path.is_dir():
            raise ValueError(f"record must name a file for judgements, got the folder {self.path}")
        self._start()
        if self.path.exists():
            with self._file():
                pass  # to find out now whether it is one of judgements

    def _start(self) -> None:
        """Make the attributes of this process."""
        self._lock = threading.Lock()
        self._place = 0  # what has been read of the file, in bytes
        self._verdicts: dict[str, Verdict] = {}
        self.calls = self.tokens = 0

    def find(self, key: str) -> Verdict | None:
        """The verdict on a content, if there is one."""
        if key not in self._verdicts:
            with self._file():
                pass  # another process may have written it
        return self._verdicts.get(key)

    def begin(self, key: str) -> str:
        """Enter a call before it is made; its name.

        Raises:
            RunError: If nothing is left of the budget.
        """
        name = secrets.token_hex(8)
        with self._file() as file:
            for what, spent in (("calls", self.calls), ("tokens", self.tokens)):
                most = getattr(self.budget, what)
                if most is not None and spent >= most:
                    raise RunError(
                        f"the judge's budget of {count(most, what[:-1])} is used up: {self.path} has {spent}; raise "
                        f"budget.{what}, or name another record"
                    )
            self._write(file, {"call": name, "key": key, "asked": True})
        return name

    def end(self, name: str, key: str, entry: Mapping[str, Any], verdict: Verdict | None) -> None:
        """Enter what came of a call; without a verdict it has failed, and ``entry["failure"]`` says why."""
        said = {} if verdict is None else {"score": verdict.score, "reason": verdict.reason}
        with self._file() as file:
            self._write(file, {"call": name, "key": key, **said, **entry})

    @contextmanager
    def _file(self) -> Iterator[IO[bytes]]:
        """The file, for this thread of this process alone, and all of it read."""
        with self._lock, room_for(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                file.seek(self._place)
                self._read(file.read())
                yield file

    def _read(self, new: bytes) -> None:
        """Take in whole lines; a writer that was killed may have left one that is not."""
        if not self._place and not new.startswith(_BEGINNING[: len(new)]):
            raise ValueError(f"record must name a file of judgements, but {self.path} is none")
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                entry = _entry(line)
            except ValueError:
                _logger.warning("%s has a line that is no judgement: %s", self.path, shown(line, 80))
                continue
            self.calls += "asked" in entry
            self.tokens += entry.get("prompt_tokens", 0) + entry.get("reply_tokens", 0)
            if "score" in entry:
                self._verdicts[entry["key"]] = Verdict(score=float(entry["score"]), reason=entry.get("reason", ""))
        self._place += len(whole)

    def _write(self, file: IO[bytes], entry: Mapping[str, Any]) -> None:
        line = well_formed(json.dumps(entry, ensure_ascii=False)).encode() + b"\n"
        end = file.seek(0, os.SEEK_END)
        if end > self._place:  # a line that was never ended
            line = b"\n" + line
        file.write(line)
        file.flush()
        file.seek(self._place)
        self._read(file.read())


def _entry(line: bytes) -> dict[str, Any]:
    """What a line of the record holds.

    Raises:
        ValueError: If it is no call.
    """
    entry = load_json(line)
    if not isinstance(entry, dict) or not {"call", "key"} <= entry.keys():
        raise ValueError(f"a line must be a JSON object with a call and a key, got {shown(entry, 80)}")
    for name in ("score", "prompt_tokens", "reply_tokens"):
        if not isinstance(entry.get(name, 0), int | float):
            raise ValueError(f"{name} must be a number, got {shown(entry[name], 80)}")
    return entry
