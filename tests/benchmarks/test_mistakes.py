"""The 47 mistakes: what their script takes for an answer that helps."""

import re

import pytest

from tests.conftest import ROOT
from tests.scripts import loaded


@pytest.fixture(scope="module")
def mistakes():
    """The script as a module."""
    with loaded(ROOT / "benchmarks" / "mistakes.py") as module:
        yield module


@pytest.fixture
def mistake(mistakes):
    return mistakes.Mistake(number=1, mistake="x", command="python -c pass", names=["group_size", "got 1"])


def test_every_mistake_is_there_and_can_be_judged(mistakes):
    cases, words, _ = mistakes.read_mistakes()
    assert {each.number for each in cases} == set(range(1, 48))
    for each in cases:
        assert each.names
        assert all(re.compile(mistakes.expand(name, words)) for name in each.names)
        assert mistakes.expand(each.command, words).split()[0] in mistakes.PROGRAMS


@pytest.mark.parametrize(
    ("code", "output", "missing"),
    [
        (2, "hello\nerror: group_size must be >= 2, got 1\n(GIGPO_LOG_LEVEL=DEBUG ...)", ""),
        (2, "error: group_size\ngot 1", "no line names group_size and got 1"),
        (1, "error: group_size got 1", "exit code 1"),
        (None, "error: group_size got 1", "had to be killed"),
        (2, "Traceback (most recent call last)\ngroup_size got 1", "1 tracebacks"),
    ],
)
def test_one_line_must_name_it_all_and_the_end_be_as_it_should(mistakes, mistake, code, output, missing):
    verdict = mistakes.judge(mistake, mistakes.Answer(code=code, output=output, seconds=0.0))
    assert verdict.missing == missing


def test_a_command_is_stopped_by_sigterm_where_that_is_asked_for_and_killed_at_its_limit(mistakes, tmp_path):
    wait = "python -c \"import time; print('waiting', flush=True); time.sleep(60)\""
    assert mistakes.run(wait, {}, tmp_path, 30.0, "waiting").code == -15
    assert mistakes.run(wait, {}, tmp_path, 0.5).code is None


def test_what_a_mistake_needs_is_written_down_first(mistakes, mistake):
    case = mistakes.replace(
        mistake, command="python $folder/mine.py", files={"mine.py": "print('group_size got 1 $word')"}, code=0
    )
    answer, verdict = mistakes.try_out(case, {"word": "more"}, {}, 30.0)
    assert (verdict.line, verdict.missing) == ("group_size got 1 more", "")
    assert answer.seconds > 0
