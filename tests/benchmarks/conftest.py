"""What the tests of the comparison share."""

from pathlib import Path

import pytest

from tests.benchmarks.runs import write_version


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of two methods; seed 0 of GiGPO was stopped after three iterations, went back to two, and went on."""
    folder = tmp_path / "runs"
    start, grpo, gigpo = [True, False, False, False], [True, True, False, False], [True, True, True, False]
    for seed in (0, 1):
        home = folder / "grpo" / f"seed_{seed}" / "lightning_logs"
        write_version(home / "version_0", "GRPO", seed, range(4), {0: start, 4: grpo})
    home = folder / "gigpo" / "seed_0" / "lightning_logs"
    write_version(home / "version_0", "GiGPO", 0, range(3), {0: start})
    write_version(home / "version_1", "GiGPO", 0, range(2, 4), {4: gigpo})
    write_version(
        folder / "gigpo" / "seed_1" / "lightning_logs" / "version_0", "GiGPO", 1, range(4), {0: start, 4: gigpo}
    )
    return folder
