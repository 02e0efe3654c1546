"""The README's Python does not learn when each step gets another's advantage: it learns from credit alone."""

from pathlib import Path

import pytest

from tests.learning_run import held_out_success


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_does_not_learn_from_shuffled_advantages(tmp_path: Path):
    _, after = held_out_success(tmp_path, "ShuffledGiGPO")
    assert after < 0.35
