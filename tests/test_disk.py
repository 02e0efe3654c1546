"""A disk that is full is called so, with the file's name; what was there before is still there."""

import contextlib
import errno
import resource
import signal
import tempfile

import pytest
import torch

from gigpo_lightning.cli import what_is_wrong
from gigpo_lightning.disk import FullDiskError, no_room, room_for, whole_file, whole_folder, whole_lines
from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.rollout.store import write_trajectories
from modules import AtomicCheckpointIO, TinyPolicy
from modules.checkpoint_folder import write_folder
from tests.rollout.test_store import GROUPS


@contextlib.contextmanager
def no_file_beyond(size: int):
    """A real limit of the system: a write that goes beyond so many bytes fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def checkpoint(path):
    weights = {"weight": torch.zeros(100_000)}
    AtomicCheckpointIO().save_checkpoint({"pytorch-lightning_version": "2.6.0", "state_dict": weights}, path)


def folder_of_ranks(path):
    write_folder(path, {"state_dict": {"weight": torch.zeros(100_000)}}, {"pytorch-lightning_version": "2.6.0"})


def folder_of_a_job(path):
    """Where ranks tell each other what went wrong, errors are pickled, and lose their causes."""
    with tempfile.TemporaryDirectory() as meeting, contextlib.ExitStack() as group:
        if not torch.distributed.is_initialized():  # a test before this one may have left its own
            torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}/at", rank=0, world_size=1)
            group.callback(torch.distributed.destroy_process_group)
        folder_of_ranks(path)


def trajectories(path):
    write_trajectories(path, GROUPS * 2000)


def lines(path):
    with whole_lines(path) as file:
        file.write("x" * 100_000)


def exported(path):
    with whole_folder(path) as unfinished:
        TinyPolicy([lambda: ["word"]], hidden_size=64).build().save_pretrained(unfinished)


def written_small(path):
    """Something that was there before."""
    if path.suffix in (".folder", ".ckpts"):
        path.mkdir()
        path = path / "file"
    path.write_text("before")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("last.ckpt", checkpoint),
        ("last.ckpts", folder_of_ranks),
        ("last.ckpts", folder_of_a_job),
        ("epoch_0.parquet", trajectories),
        ("evaluations.jsonl", lines),
        ("policy.folder", exported),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_limit_of_the_system_leaves_what_was_there_and_is_said_in_one_line(tmp_path, name, write, before):
    path = tmp_path / name
    if before:
        written_small(path)
    was = tree(tmp_path)
    with no_file_beyond(20_000), pytest.raises(FullDiskError) as error:
        write(path)
    assert {name: content for name, content in tree(tmp_path).items() if content} == was
    assert not [each for each in tmp_path.iterdir() if each != path]
    kept = "what had that name before is unharmed" if before else "nothing of it is left"
    message = what_is_wrong(error.value)
    assert message.startswith(f"{path} cannot be written: the file would be larger than the system allows; {kept}. ")
    assert "--ckpt_path last" in message
    assert "\n" not in message


def test_an_adapter_for_an_engine_is_named_too(tmp_path):
    adapter = Adapter(config={}, tensors={"weight": torch.zeros(100_000)})
    with no_file_beyond(20_000), pytest.raises(FullDiskError, match="adapter cannot be written"):
        adapter.save(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up"), (errno.EIO, "")],
)
def test_the_reason_is_found_behind_what_a_library_made_of_it(number, reason):
    error = RuntimeError("unexpected pos 847360 vs 847252")
    error.__context__ = OSError(number, "as the system says it")
    assert no_room(error) == reason
    assert no_room(RuntimeError(f"I/O error: as Rust says it (os error {number})")) == reason


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), room_for(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_an_error_that_names_no_way_on_gets_one():
    assert what_is_wrong(OSError(errno.ENOSPC, "No space left on device", "events.out")).endswith(
        "'events.out': the disk is full; make room, and go on with --ckpt_path last"
    )


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_a_folder(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / "old").write_text("old")
    with whole_folder(tmp_path / "last.ckpt") as unfinished:
        (unfinished / "new").write_text("new")
    assert list(tree(tmp_path).values()) == [b"new"]
    with whole_file(tmp_path / "last.ckpt") as partial:
        partial.write_text("file")
    assert (tmp_path / "last.ckpt").read_text() == "file"


def test_of_a_shared_folder_other_files_stay(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "README").write_text("mine")
    with whole_folder(tmp_path / "policy", keep_others=True) as unfinished:
        (unfinished / "weights").write_text("new")
    assert sorted(tree(tmp_path).values()) == [b"mine", b"new"]
    assert [each.name for each in tmp_path.iterdir()] == ["policy"]
