"""Fixtures of the sweeps' tests."""

import pytest


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, repository_root):
    monkeypatch.chdir(repository_root)
