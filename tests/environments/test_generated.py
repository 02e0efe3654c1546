"""Folders of generated data are there whole or not at all."""

import pytest

from gigpo_lightning.environments.generated import check_made_with, new_folder


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
