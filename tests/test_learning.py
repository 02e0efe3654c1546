"""The README's Python, on real vLLM: it learns, and it does not when each step gets another step's advantage."""

import json
from pathlib import Path

import pytest

from tests.forked import finish, start


def success(folder: Path, estimator: str) -> tuple[float, float]:
    """Held-out success of ``tests.learning_run`` before and after."""
    log = folder / "log.txt"
    assert finish(start("tests.learning_run", [str(folder), estimator], log)) == 0, log.read_text()[-4000:]
    before, *_, after = json.loads((folder / "success.json").read_text())
    return before, after


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_learns_the_gridworld(tmp_path):
    before, after = success(tmp_path, "GiGPO")
    assert before < 0.2
    assert after > 0.5


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_does_not_learn_from_shuffled_advantages(tmp_path):
    _, after = success(tmp_path, "ShuffledGiGPO")
    assert after < 0.35
