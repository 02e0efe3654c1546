"""A checkpoint is on the disk whole or not at all, and what is none is refused with one line."""

import errno
import pickle

import pytest
import torch

from gigpo_lightning.disk import FullDiskError
from modules import AtomicCheckpointIO

CHECKPOINT = {"pytorch-lightning_version": "2.6.0", "state_dict": {"weight": torch.arange(1000.0)}, "epoch": 3}


@pytest.fixture
def last(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def test_what_is_written_is_read_again(last):
    read = AtomicCheckpointIO().load_checkpoint(last)
    assert torch.equal(read["state_dict"]["weight"], torch.arange(1000.0))
    assert read["epoch"] == 3
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_full_leaves_the_checkpoint_that_was_there(last, monkeypatch):
    before, save = last.read_bytes(), torch.save

    def full(value, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        FullDiskError, match=r"last.ckpt cannot be written: the disk is full; what had that name .* unharmed"
    ):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, last)
    monkeypatch.setattr(torch, "save", save)
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_the_bytes_are_on_the_disk_before_they_have_the_name(last, monkeypatch):
    seen = []
    monkeypatch.setattr("os.fsync", lambda number: seen.append(sorted(path.name for path in last.parent.iterdir())))
    last.unlink()
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, last)
    assert seen == [["last.ckpt.partial"], ["last.ckpt"]]


def test_a_file_that_was_cut_short_is_refused_wherever_that_was(last):
    whole = last.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"ckpt_path must name a whole checkpoint .*last.ckpt', which was cut short"
        ):
            AtomicCheckpointIO().load_checkpoint(last)


class Trap:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("gotcha",))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"weight": torch.zeros(3)}, "which something else wrote"),
        ([1, 2], "which something else wrote"),
        (CHECKPOINT | {"trap": Trap()}, "which cannot be read"),
    ],
)
def test_what_no_trainer_wrote_is_refused_and_not_run(tmp_path, capsys, value, why):
    torch.save(value, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=why):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "foreign.ckpt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_of_its_end_is_refused_in_our_words_or_changes_nothing(last, bit):
    whole, refused = last.read_bytes(), 0
    for position in range(len(whole) - 98, len(whole)):  # the three records that end it, which the archive begins with
        content = bytearray(whole)
        content[position] ^= 1 << bit
        last.write_bytes(content)
        try:
            assert AtomicCheckpointIO().load_checkpoint(last).keys() == CHECKPOINT.keys()
        except ValueError as error:
            assert str(error).startswith("ckpt_path must name a whole checkpoint")  # noqa: PT017  most are harmless
            refused += 1
    assert refused > 30


def test_what_is_no_archive_or_no_file_is_refused(tmp_path):
    (tmp_path / "pickled.ckpt").write_bytes(pickle.dumps(1))
    for name, why in (("pickled.ckpt", "is something else"), ("nowhere.ckpt", "is no file"), (".", "is no file")):
        with pytest.raises(ValueError, match=why):
            AtomicCheckpointIO().load_checkpoint(tmp_path / name)
