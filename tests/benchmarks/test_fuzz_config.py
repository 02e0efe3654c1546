"""The fuzzer of configurations: what it makes of mutants whose outcome is known, and a few real ones."""

import json
from dataclasses import replace

import pytest
import yaml

from tests.conftest import ROOT
from tests.forked import finish, start
from tests.scripts import loaded

SOURCE = "configs/gridworld_cpu.yaml"


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module."""
    with loaded(ROOT / "benchmarks" / "fuzz_config.py") as module:
        yield module


@pytest.fixture
def case(fuzz):
    return fuzz.Case(
        number=0,
        source=SOURCE,
        kind="-7",
        key="data.init_args.group_size",
        content=b"",
        must="refuse",
        names=("group_size",),
    )


@pytest.mark.parametrize(
    ("how", "said", "must", "expected"),
    [
        ("accepted", "", "refuse", "accepted nonsense!"),
        ("accepted", "", "either", "accepted"),
        ("refused", "data.init_args.group_size must be >= 2", "refuse", "refused"),
        ("refused", "'<' not supported between instances of 'NoneType' and 'int'", "either", "refused without the key"),
        ("refused", "the group_sizes are wrong", "either", "refused without the key"),
        ("refused", "group_size must be\n>= 2", "either", "refused without the key"),
        ("refused", "group_size must be >= 2", "accept", "refused what is right!"),
        ("traceback", "TypeError: group_size", "refuse", "traceback!"),
        ("time", "", "either", "time!"),
    ],
)
def test_an_outcome_is_judged_by_what_had_to_come(fuzz, case, how, said, must, expected):
    assert fuzz.classify(replace(case, must=must), fuzz.Outcome(how=how, said=said)) == expected


def test_of_a_file_that_was_changed_the_name_has_to_be_said(fuzz, case):
    outcome = fuzz.Outcome(how="refused", said="/tmp/mutant.yaml must be a text file in UTF-8")
    assert fuzz.classify(replace(case, names=()), outcome) == "refused"
    outcome = fuzz.Outcome(how="refused", said="'utf-8' codec can't decode byte 0xff in position 0")
    assert fuzz.classify(replace(case, names=()), outcome) == "refused without the key"


@pytest.mark.slow
def test_a_seed_makes_the_same_mutants_again(fuzz):
    texts = fuzz.corpus()
    cases = fuzz.make_cases(3, 200, texts)
    assert cases == fuzz.make_cases(3, 200, texts)
    assert cases != fuzz.make_cases(4, 200, texts)
    assert len({each.kind for each in cases}) > 20


@pytest.mark.slow
def test_a_mutant_of_a_key_differs_from_its_source_there_alone(fuzz):
    texts = fuzz.corpus()
    for case in fuzz.make_cases(5, 300, texts):
        if case.kind not in ("-7", "nan", "inf", "huge"):
            continue
        before, after = (dict(fuzz.nodes(yaml.safe_load(text))) for text in (texts[case.source], case.content))
        leaves = {path for path, value in before.items() if not isinstance(value, dict | list) and path}
        changed = {".".join(map(str, path)) for path in leaves if repr(before[path]) != repr(after[path])}
        assert changed == {case.key}


@pytest.mark.slow
def test_a_few_mutants_end_as_they_should(tmp_path):
    """In a process of its own: the script forks, and this one has threads of other tests."""
    out, log = tmp_path / "cases.jsonl", tmp_path / "log.txt"
    words = ["--processes", "1", "--limit", "120", "--cases", "8", "--only", "*_cpu.yaml", "--out", str(out)]
    assert finish(start("benchmarks.fuzz_config", words, log)) in (0, 1), log.read_text()[-4000:]
    judged = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(judged) == 8
    assert [(case["verdict"], case["said"]) for case in judged if case["verdict"].endswith("!")] == []
