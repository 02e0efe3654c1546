"""Fixtures of the sweeps' tests."""

from pathlib import Path

import pytest

from gigpo_lightning.sweep.run import Run
from tests.sweep.runs import ready


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, repository_root):
    monkeypatch.chdir(repository_root)


@pytest.fixture
def stop_file(tmp_path) -> Path:
    """Where a request to stop would appear."""
    return tmp_path / ".stop"


@pytest.fixture
def new(tmp_path):
    """Makes a run that is ready to begin."""

    def make(seed: int, name: str = "run") -> Run:
        return ready(tmp_path / name, seed)

    return make
