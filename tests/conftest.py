"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no defect, and one commit gives one result.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", steady)
settings.register_profile("quick", steady, max_examples=20)
settings.load_profile(os.environ.get("GIGPO_HYPOTHESIS_PROFILE", "steady"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout that is under test."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that is never part of the project: ``GIGPO_TEST_DATA``, or a folder beside the checkout."""
    folder = Path(os.environ.get("GIGPO_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder}; set GIGPO_TEST_DATA to where it is")
    return folder
