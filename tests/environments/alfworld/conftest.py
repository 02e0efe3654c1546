"""Fixtures of the ALFWorld tests."""

from pathlib import Path

import pytest

from gigpo_lightning.environments.alfworld import Scenes, alfworld_panel, generate_scenes
from gigpo_lightning.environments.base import Task

SMALL = Scenes(seed=3, train=12, valid_seen=6, valid_unseen=6, receptacles=6, objects=9)


@pytest.fixture(scope="session")
def engine() -> None:
    """The optional packages, or a skipped test."""
    for package in ("alfworld", "textworld", "fast_downward"):
        pytest.importorskip(package, reason=f"needs {package}, of the extra 'alfworld'")


@pytest.fixture(scope="session")
def scenes_dir(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dozen small games."""
    folder = tmp_path_factory.mktemp("alfworld")
    generate_scenes(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def tasks(scenes_dir: Path) -> dict[str, Task]:
    """One generated game of each kind."""
    return {task.kind: task for task in alfworld_panel(scenes_dir, "valid_unseen").tasks}
