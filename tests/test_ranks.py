"""Several ranks train as one process would: the same minibatches, the same sums, the same weights; and fail as one."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Sums over ranks are taken in another order than over micro-batches: a relative error of about 1e-7 in a gradient,
# which AdamW, dividing by its root mean square, passes on to a step of 1e-3; two epochs are eight steps. Without the
# shared counts, or the factor of the number of ranks, weights are off by more than 1e-4.
TOLERANCE = {"rtol": 0.0, "atol": 1e-7}


def start(folder: Path, devices: int, strategy: str, *options: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.ranks_run", str(folder), str(devices), strategy, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def run(folder: Path, devices: int, strategy: str, *options: str) -> dict[str, Any]:
    process = start(folder, devices, strategy, *options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-4000:]
    kept: dict[str, Any] = torch.load(folder / "kept.pt", weights_only=True)
    return kept


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("alone"), 1, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_give_the_weights_of_one_process(strategy: str, alone: dict[str, Any], tmp_path: Path):
    both = run(tmp_path, 2, strategy)
    (many, few), (all_steps,) = ([rank["steps"] for rank in kept["ranks"]] for kept in (both, alone))
    assert many == [3 * steps for steps in few]  # the first rank has three times the steps of the second
    assert [one + other for one, other in zip(many, few, strict=True)] == all_steps
    one, other = both["ranks"]
    assert one["updates"] == other["updates"] == alone["ranks"][0]["updates"]
    assert one["backward_passes"] == other["backward_passes"]
    torch.testing.assert_close(both["weights"], alone["weights"], **TOLERANCE)
    assert both["losses"] == pytest.approx(alone["losses"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_raises_ends_the_whole_job_with_its_own_message(strategy: str, failing: int, tmp_path: Path):
    started = time.monotonic()
    process = start(tmp_path, 2, strategy, "--failing", str(failing))
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "argument must be what it is not: this rank has failed" in errors
    assert time.monotonic() - started < 100  # a hang would end at the timeout of a collective, half an hour later
