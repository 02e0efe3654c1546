"""Where a run came from: its commit, command line and machine."""

import subprocess
from datetime import datetime

import pytest

from gigpo_lightning.provenance import command_line, git_state, installed_version, now, processor


@pytest.fixture
def repository(tmp_path):
    """A repository of one file and no commit."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "kept.txt").write_text("one")
    git("add", "kept.txt")
    return tmp_path, git


def test_the_commit_is_told_and_whether_a_file_was_changed_since(repository):
    folder, git = repository
    git("commit", "-m", "first")
    assert git_state(folder) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (folder / "run.log").touch()  # git does not know it
    assert git_state(folder)["dirty"] is False
    (folder / "kept.txt").write_text("two")
    assert git_state(folder)["dirty"] is True


def test_before_a_first_commit_there_is_none(repository):
    assert git_state(repository[0]) == {}


def test_outside_a_repository_and_without_git_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == {}


def test_a_command_line_is_one_that_a_shell_takes():
    assert command_line(["gigpo", "fit", "--a", "b c"]) == "gigpo fit --a 'b c'"


def test_the_time_has_its_zone():
    assert datetime.fromisoformat(now()).tzinfo is not None


def test_the_processor_has_a_name_and_its_memory():
    found = processor()
    assert found["name"]
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0


def test_a_checkout_without_an_installation_has_no_version() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("gigpo-of-a-checkout") is None
