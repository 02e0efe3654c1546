"""The README's Python, on real vLLM: it learns."""

from pathlib import Path

import pytest

from tests.learning_run import held_out_success


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_learns_the_gridworld(tmp_path: Path):
    before, after = held_out_success(tmp_path, "GiGPO")
    assert before < 0.2
    assert after > 0.5
