"""Makes 47 plausible mistakes and says whether the line that a user gets names what to do.

    python benchmarks/mistakes.py [--only 7,31] [--processes 2] [--limit 300]

The mistakes are in ``mistakes.yaml``: commands, the files that they need, and what the answer must name. Each runs as a
user would run it, in a new process, from the root of the checkout and with a new folder on ``PYTHONPATH``. The machine
should have no GPU. The exit code is 1 if more than two of the mistakes get no help.
"""

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

import yaml

ROOT = Path(__file__).resolve().parents[1]
CASES = Path(__file__).with_suffix(".yaml")
GOAL = 45
LONGEST = 220  # characters of a line in the table
HINT = "(GIGPO_LOG_LEVEL=DEBUG shows where it was raised)"
FILE_NAME = re.compile(r"^```\w+\n# (\w+\.(?:py|yaml))\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "gigpo": ("-c", "from gigpo_lightning.console import gigpo; gigpo()"),
    "gigpo-sweep": ("-c", "from gigpo_lightning.console import sweep; sweep()"),
    "gigpo-server": ("-c", "from gigpo_lightning.engines.vllm_server.command import main; main()"),
    "python": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One command that goes wrong; a number may have several.

    Attributes:
        number: Of the mistake.
        mistake: What it is, in Markdown.
        command: Program and words; ``$name`` is one of the file's words, ``$folder`` the run's, ``$port`` a web
            server's and ``$free_port`` nobody's.
        names: Regular expressions, all of which one line of the output must match.
        code: Exit code that is right.
        files: Written into the folder first, by name.
        page: A document whose named code blocks are written into the folder, too.
        before: Commands that must succeed first.
        stop_at: Regular expression; once it is in the output, SIGTERM is sent.
        most_lines: Longest output, in lines; default: any.
        most_tracebacks: Tracebacks that the output may have.
    """

    number: int
    mistake: str
    command: str
    names: list[str]
    code: int = 2
    files: dict[str, str] = field(default_factory=dict)
    page: str = ""
    before: list[str] = field(default_factory=list)
    stop_at: str = ""
    most_lines: int | None = None
    most_tracebacks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command did: its exit code, None where it had to be killed; its output; its processor time in seconds."""

    code: int | None
    output: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The output's lines, without the empty ones and the one that every error ends with."""
        return [line for line in self.output.splitlines() if line.strip() and line != HINT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer helps: the line to be shown, and what is missing; nothing if it helps."""

    line: str
    missing: str


def read_mistakes() -> tuple[list[Mistake], dict[str, str], dict[str, str]]:
    """The mistakes, words that their commands share, and files that every folder has."""
    held = yaml.safe_load(CASES.read_text())
    return [Mistake(**each) for each in held["mistakes"]], held["words"], held["files"]


def judge(mistake: Mistake, answer: Answer) -> Verdict:
    """Look for the line that names all that it must, and at the manner of the end."""
    named = [line for line in answer.lines if all(re.search(each, line) for each in mistake.names)]
    missing = []
    if not named:
        missing.append(f"no line names {' and '.join(mistake.names)}")
    if answer.code != mistake.code:
        missing.append("had to be killed" if answer.code is None else f"exit code {answer.code}")
    if mistake.most_lines is not None and len(answer.lines) > mistake.most_lines:
        missing.append(f"{len(answer.lines)} lines")
    tracebacks = answer.output.count("Traceback (most recent call last)")
    if tracebacks > mistake.most_tracebacks:
        missing.append(f"{tracebacks} tracebacks")
    line = (named or answer.lines or ["nothing"])[-1]
    return Verdict(line=line.removeprefix("error: "), missing=", ".join(missing))


def run(command: str, words: dict[str, str], folder: Path, limit: float, stop_at: str = "") -> Answer:
    """Run a command as a user would, for ``limit`` seconds at most."""
    program, *arguments = shlex.split(expand(command, words))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "COLUMNS": "120"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *PROGRAMS[program], *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        deadline, killed = time.monotonic() + limit, False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            output.seek(0)
            said = output.read()
            if pid:
                break
            if stop_at and re.search(stop_at, said):
                process.terminate()
                stop_at, deadline = "", time.monotonic() + limit / 10
            if time.monotonic() > deadline and not killed:
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return Answer(code=None if killed else process.returncode, output=said, seconds=seconds)


def expand(text: str, words: dict[str, str]) -> str:
    """Put words in their places, also those within words."""
    while (expanded := Template(text).safe_substitute(words)) != text:
        text = expanded
    return text


def try_out(mistake: Mistake, words: dict[str, str], shared: dict[str, str], limit: float) -> tuple[Answer, Verdict]:
    """Make a mistake in a new folder."""
    with tempfile.TemporaryDirectory() as name:
        folder, words = Path(name), words | {"folder": name}
        page = (ROOT / mistake.page).read_text() if mistake.page else ""
        for file, content in (shared | dict(FILE_NAME.findall(page)) | mistake.files).items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(expand(content, words))
        for command in mistake.before:
            first = run(command, words, folder, limit)
            if first.code != 0:
                raise RuntimeError(f"mistake {mistake.number}: {command} ended with {first.code}:\n{first.output}")
        answer = run(mistake.command, words, folder, limit, mistake.stop_at)
        verdict = judge(replace(mistake, names=[expand(each, words) for each in mistake.names]), answer)
        shown = verdict.line.replace(name, "FOLDER")
        return answer, Verdict(line=shown, missing=verdict.missing)


class _NoServer(BaseHTTPRequestHandler):
    """Knows no page."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def ports() -> Iterator[dict[str, str]]:
    """A port where a web server answers, and one where nobody does."""
    with socket.socket() as free, ThreadingHTTPServer(("127.0.0.1", 0), _NoServer) as server:
        free.bind(("127.0.0.1", 0))  # bound, and not listened on: connections are refused
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"port": str(server.server_port), "free_port": str(free.getsockname()[1])}
        server.shutdown()


def row(mistake: Mistake, answer: Answer, verdict: Verdict) -> str:
    """A line of the table."""
    line = verdict.line if len(verdict.line) <= LONGEST else f"{verdict.line[:LONGEST]}..."
    cells = (
        str(mistake.number),
        mistake.mistake,
        "killed" if answer.code is None else str(answer.code),
        f"{answer.seconds:.1f}",
        line,
        verdict.missing or "yes",
    )
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mistakes, print the table; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", type=lambda text: {int(each) for each in text.split(",")}, help="numbers, by commas")
    parser.add_argument("--processes", type=int, default=1, help="commands that run at the same time (default: 1)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one command (default: 300)")
    options = parser.parse_args(arguments)
    mistakes, words, shared = read_mistakes()
    chosen = [each for each in mistakes if not options.only or each.number in options.only]
    numbers = {each.number for each in chosen}
    helpless: set[int] = set()
    print("| | mistake | exit code | s | what the user reads | helps |\n|---|---|---|---|---|---|", flush=True)
    with ports() as places, ThreadPoolExecutor(options.processes) as pool:
        tried = pool.map(lambda each: try_out(each, words | places, shared, options.limit), chosen)
        for mistake, (answer, verdict) in zip(chosen, tried, strict=True):
            print(row(mistake, answer, verdict), flush=True)
            helpless |= {mistake.number} if verdict.missing else set()
    print(f"\n{len(numbers - helpless)} of {len(numbers)}")
    return int(len(helpless) > max(0, 47 - GOAL))


if __name__ == "__main__":
    sys.exit(main())
