"""Of a checkpoint's file a byte that is not as it was written is noticed, or changes nothing."""

import io

import pytest
import torch

from modules.checkpoint_io import damage

CONTENT = {"weight": torch.arange(30.0), "short": torch.ones(3, dtype=torch.bfloat16), "epoch": 3, "name": "text"}


def written() -> bytes:
    file = io.BytesIO()
    torch.save(CONTENT, file)
    return file.getvalue()


def read(content: bytes) -> dict | None:
    """What is taken of it; None if it is refused."""
    if damage(io.BytesIO(content)):
        return None
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except RuntimeError:  # the archive is as it should be, and torch finds no checkpoint in it
        return None


def same(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict) and list(found) == list(wanted) and all(same(found[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, torch.Tensor):
        return isinstance(found, torch.Tensor) and found.dtype == wanted.dtype and torch.equal(found, wanted)
    return found == wanted


def test_a_file_that_is_as_it_was_written_is_read():
    assert same(read(written()), CONTENT)


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(0, 8, 2))
def test_any_flipped_bit_is_noticed_or_changes_nothing(bit):
    whole, refused = written(), 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (bit + position % 2)
        found = read(bytes(content))
        refused += found is None
        assert found is None or same(found, CONTENT), f"byte {position}"
    assert refused > len(whole) / 3


def test_a_number_that_is_another_is_noticed_where_torch_would_take_it():
    whole = written()
    place = whole.index(CONTENT["weight"].numpy().tobytes())
    content = bytearray(whole)
    content[place + 40 : place + 60] = bytes(20)
    assert not same(torch.load(io.BytesIO(bytes(content)), weights_only=True), CONTENT)
    assert "Bad CRC-32 for file 'archive/data/0'" in damage(io.BytesIO(bytes(content)))


def test_a_member_that_torch_would_leave_unread_is_noticed():
    whole = written()
    entry = whole.rindex(b"archive/data/1") - 46  # in the table at the end, whose entries have 46 bytes before the name
    content = bytearray(whole)
    content[entry + 38] |= 0x10  # "this is a folder"
    assert damage(io.BytesIO(bytes(content))) == "archive/data/1 is no plain member"
