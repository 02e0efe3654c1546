"""A checkpoint's folder shows whether it is as it was written, and nothing in it is run."""

import io
import os
import pickle
import shutil

import pytest
import torch

from modules.checkpoint_folder import contents, open_folder, read_folder, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

REST = {"pytorch-lightning_version": "2.6.0", "epoch": 3}
STATE = {
    "state_dict": {"weight": torch.arange(30.0)},
    "optimizer_0": {
        "state": {"weight": {"exp_avg": torch.ones(30)}},
        "param_groups": [{"lr": 0.5, "params": ["weight"]}],
    },
}


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "last.ckpt", STATE, REST)
    return tmp_path / "last.ckpt"


def test_what_is_written_is_read_again_also_elsewhere(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "copy.ckpt")
    rest, metadata = open_folder(folder)
    assert rest == REST
    known = contents(folder, metadata)
    assert known["state_dict"]["weight"].shape == (30,)
    assert known["optimizer_states"] == [{"state": {}, "param_groups": [{"lr": 0.5, "params": ["weight"]}]}]
    state = {
        "state_dict": {"weight": torch.zeros(30)},
        "optimizer_0": {"state": {"weight": {"exp_avg": torch.zeros(30)}}, "param_groups": [{"lr": 0.0, "params": []}]},
    }
    read_folder(folder, state, metadata)
    assert torch.equal(state["state_dict"]["weight"], torch.arange(30.0))
    assert state["optimizer_0"]["param_groups"] == [{"lr": 0.5, "params": ["weight"]}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.ckpt", "last.ckpt"]


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "meta.pt"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(folder, name):
    whole, refused, tried = (folder / name).read_bytes(), 0, 0
    for position in range(0, len(whole), 41):
        content, tried = bytearray(whole), tried + 1
        content[position] ^= 1 << position % 8
        (folder / name).write_bytes(content)
        try:
            assert open_folder(folder)[0] == REST
        except ValueError:
            refused += 1
    assert refused == tried or name == "meta.pt"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "__0_0.distcp").unlink(), "in which __0_0.distcp is missing"),
        (lambda folder: (folder / ".metadata").unlink(), "in which .metadata is missing"),
        (lambda folder: (folder / "__1_0.distcp").touch(), "in which __1_0.distcp is another checkpoint's"),
        (lambda folder: (folder / "meta.pt").unlink(), "in which meta.pt is missing: it was not finished"),
    ],
)
def test_a_file_too_few_or_too_many_is_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        open_folder(folder)


def without_checksums(folder):
    """As a stranger, or an older version, would have written it."""
    torch.save(REST, folder / "meta.pt")


@pytest.mark.parametrize("damage", [pickle.dumps(3), b"", b"nonsense", pickle.dumps(print), pickle.dumps({})])
def test_metadata_that_are_something_else_are_refused(folder, damage):
    without_checksums(folder)
    (folder / ".metadata").write_bytes(damage)
    with pytest.raises(ValueError, match=r"last.ckpt', in which .metadata is"):
        open_folder(folder)


def test_code_in_the_metadata_is_not_run(folder, tmp_path):
    without_checksums(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "RAN")))
    with pytest.raises(ValueError, match=r"in which .metadata is damaged or something else: posix.mkdir has no place"):
        open_folder(folder)
    assert not (tmp_path / "RAN").exists()


def test_code_in_what_is_no_tensor_is_not_run(folder, tmp_path):
    without_checksums(folder)
    _, metadata = open_folder(folder)
    where = next(each for index, each in metadata.storage_data.items() if index.fqn.endswith(".lr"))
    trap = io.BytesIO()
    torch.save(Trap(tmp_path / "RAN"), trap)
    with (folder / where.relative_path).open("ab") as file:
        where.offset, where.length = file.tell(), len(trap.getvalue())
        file.write(trap.getvalue())
    with pytest.raises(ValueError, match="cannot be read"):
        read_folder(folder, {"optimizer_0": {"param_groups": [{"lr": 0.0}]}}, metadata)
    with pytest.raises(ValueError, match="cannot be read"):
        contents(folder, metadata)
    assert not (tmp_path / "RAN").exists()


def test_code_in_meta_pt_is_not_run(folder, tmp_path):
    torch.save(REST | {"trap": Trap(tmp_path / "RAN")}, folder / "meta.pt")
    with pytest.raises(ValueError, match=r"meta.pt', which cannot be read"):
        open_folder(folder)
    assert not (tmp_path / "RAN").exists()


def test_a_folder_that_leads_elsewhere_is_refused(folder):
    without_checksums(folder)
    text = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(text.replace(b"__0_0.distcp", b"../../passwd"))
    with pytest.raises(ValueError, match=r"in which ../../passwd is missing"):
        open_folder(folder)


def test_a_folder_of_an_older_version_is_read_and_said_to_have_no_checksums(folder, caplog):
    without_checksums(folder)
    assert open_folder(folder)[0] == REST
    assert "without checksums: damage would go unnoticed" in caplog.text
