"""Folders of generated data are there whole or not at all."""

import pytest

from gigpo_lightning.environments.generated import check_made_with, make_unless_there, new_folder


def test_a_folder_appears_when_all_is_written(tmp_path):
    with new_folder(tmp_path / "new" / "world") as partial:
        (partial / "file").write_text("whole")
        assert not (tmp_path / "new" / "world").exists()
    assert (tmp_path / "new" / "world" / "file").read_text() == "whole"


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def fail():
        with new_folder(tmp_path / "world") as partial:
            (partial / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_made_meanwhile_is_taken(tmp_path):
    world = tmp_path / "world"

    def make():
        with new_folder(world) as partial:
            (partial / "file").write_text("mine")
            if not world.exists():
                world.mkdir()
                (world / "file").write_text("another's")

    make_unless_there(world.exists, make)
    assert (world / "file").read_text() == "another's"
    assert list(tmp_path.iterdir()) == [world]


def test_what_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()

    def make():
        with new_folder(tmp_path / "file" / "world"):
            pass

    with pytest.raises(FileExistsError):
        make_unless_there(lambda: False, make)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"seed": 1, "size": 3}', ""),
        ('{"seed": 2, "size": 3}', "holds a world made with seed 2 instead of 1; choose another data_dir"),
        ('{"size": 3}', "seed None instead of 1"),
        ("{", "data_dir must be free for a world, but .* has no readable made.json"),
        (None, "data_dir must be free for a world, but .* has no readable made.json"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, manifest, message):
    if manifest is not None:
        (tmp_path / "made.json").write_text(manifest)
    arguments = (tmp_path, "made.json", {"seed": 1, "size": 3}, "a world", "data_dir")
    if message:
        with pytest.raises(ValueError, match=message):
            check_made_with(*arguments)
    else:
        check_made_with(*arguments)
