"""Folders of generated data are there whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gigpo_lightning.environments.generated import make_once

SETTINGS = {"seed": 1, "size": 3}


def make(folder: Path, write: Callable[[Path], object] = lambda into: (into / "file").write_text("whole")) -> None:
    make_once(folder, "made.json", SETTINGS, "a world", "data_dir", write)


def test_a_folder_appears_when_all_is_written(tmp_path):
    world = tmp_path / "new" / "world"

    def write(into):
        (into / "file").write_text("whole")
        assert not world.exists()

    make(world, write)
    assert (world / "file").read_text() == "whole"
    assert json.loads((world / "made.json").read_text()) == SETTINGS


def test_one_that_is_there_is_left_alone(tmp_path):
    make(tmp_path / "world")
    make(tmp_path / "world", lambda into: pytest.fail("written again"))


def test_an_empty_one_is_filled(tmp_path):
    make(tmp_path)
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_what_fails_half_way_leaves_nothing(tmp_path, error):
    def fail(into):
        (into / "file").write_text("half")
        raise error

    with pytest.raises(error):
        make(tmp_path / "world", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_made_meanwhile_is_taken(tmp_path):
    world = tmp_path / "world"

    def write(into):
        (into / "file").write_text("mine")
        make(world, lambda other: (other / "file").write_text("another's"))

    make(world, write)
    assert (world / "file").read_text() == "another's"
    assert list(tmp_path.iterdir()) == [world]


def test_what_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make(tmp_path / "file" / "world")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"seed": 2, "size": 3}', "holds a world made with seed 2 instead of 1; choose another data_dir"),
        ('{"size": 3}', "seed None instead of 1"),
        ("{", "data_dir must be free for a world, but .* has no readable made.json"),
        (None, "data_dir must be free for a world, but .* has no readable made.json"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, manifest, message):
    (tmp_path / "file").touch()
    if manifest is not None:
        (tmp_path / "made.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        make(tmp_path)
