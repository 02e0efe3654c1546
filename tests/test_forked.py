"""Programs in forks end, fail and are killed as they would in a Python of their own."""

import os
import sys
from pathlib import Path

import pytest

from tests.forked import finish, start


def main() -> None:
    """Be a program: say what it was given, and carry it out."""
    print(os.environ["COLOUR"], sys.argv[0], flush=True)
    exec(sys.argv[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("os.kill(os.getpid(), 15)", -15, ""),
        ("assert sys.stdin.read() == ''", 0, ""),
        ("import atexit; atexit.register(lambda: print('bye', file=sys.stderr))", 0, "bye\n"),
    ],
)
def test_its_exit_code_and_what_it_says(tmp_path: Path, words: str, code: int, said: str) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    program = start("tests.test_forked", [words], out, err, COLOUR="red")
    assert finish(program) == code
    assert out.read_text() == "red tests.test_forked\n"
    assert err.read_text().endswith(said)
    with pytest.raises(ProcessLookupError):
        os.kill(program.pid, 0)


@pytest.mark.slow
def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    program = start("tests.test_forked", ["import time; time.sleep(600)"], tmp_path / "log", COLOUR="red")
    with pytest.raises(TimeoutError, match=r"a forked program took more than 0\.1 s"):
        finish(program, 0.1)
    assert finish(program) == -9
