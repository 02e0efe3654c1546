"""What ``gigpo`` says without Lightning is what its full parser says."""

import os
import subprocess
import sys
from argparse import ArgumentError

import pytest

from gigpo_lightning.cli import build_cli, what_is_wrong
from gigpo_lightning.quick_answers import answer
from tests.conftest import ROOT

ASKS = """
import sys
from gigpo_lightning.console import gigpo
try:
    gigpo()
finally:
    assert not {"lightning", "torch", "torchmetrics", "transformers", "numpy"} & sys.modules.keys()
"""


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_the_full_parser_prints_the_same(words, capsys):
    printed = []
    for answers in (answer, build_cli):
        with pytest.raises(SystemExit) as stop:
            answers(words)
        assert stop.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize("words", [[], ["fti"], ["fti", "--config", "configs/gridworld_cpu.yaml"], ["Fit"], [""]])
def test_the_full_parser_finds_the_same_fault(words, caplog):
    with pytest.raises(SystemExit) as stop:
        answer(words)
    assert stop.value.code == 2
    with pytest.raises(ArgumentError) as refused:
        build_cli(words)
    assert caplog.messages[-1].startswith(f"error: {what_is_wrong(refused.value)}\n")


@pytest.mark.parametrize("words", [["fit", "--help"], ["predict"], ["-c", "configs/gridworld_cpu.yaml", "fit"]])
def test_what_asks_for_a_run_is_left_to_the_full_parser(words):
    answer(words)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), ([], 2), (["fti"], 2)])
def test_an_answer_imports_nothing_heavy(words, code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", ASKS, *words], capture_output=True, text=True, env=environment)
    assert result.returncode == code, result.stderr
