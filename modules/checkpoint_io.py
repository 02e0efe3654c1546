"""Writes checkpoints to the disk, and refuses unusable ones."""

import io
import logging
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gigpo_lightning.disk import whole_file

_logger = logging.getLogger(__name__)

_CHUNK = 1 << 24  # bytes: large enough that Python's own time does not count


def check_whole(path: _PATH) -> None:
    """Look, without reading it, whether a file can be a checkpoint: its last bytes say so.

    Raises:
        ValueError: If there is no such file, it was cut short, or it is something else.
    """
    if _is_remote(path):
        return
    if not Path(path).is_file():
        raise ValueError(f"{rule(path)}, which is no file")
    try:
        whole = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of an end that says that there are more files
        whole = False
    if not whole:
        raise ValueError(f"{rule(path)}, which was cut short or is something else")


def check_file(path: Path) -> None:
    """Look at every byte of a checkpoint that is a file; of a folder whoever opens it does so.

    Raises:
        ValueError: If it is not whole, or damaged.
    """
    if not path.is_dir():
        check_whole(path)
        if wrong := damage(path):
            raise ValueError(f"{path} is damaged: {wrong}")


def _is_remote(path: _PATH) -> bool:
    return ":" in str(path).partition("/")[0]  # of a store or a registry


def rule(path: _PATH) -> str:
    """How the refusal of a checkpoint begins."""
    return f"ckpt_path must name a whole checkpoint that a Trainer wrote, got {str(path)!r}"


def read_checkpoint(path: _PATH, load: Callable[[], Any] | None = None) -> dict[str, Any]:
    """Read a file that a Trainer wrote, with torch or what is given; of a local file, every byte is looked at first.

    Raises:
        ValueError: If there is no such file, it is not whole, or something else wrote it.
    """
    check_whole(path)
    if not _is_remote(path) and (found := damage(path)):
        raise ValueError(f"{rule(path)}, which is damaged: {found}")
    try:
        checkpoint = load() if load else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        _logger.debug("the whole story:", exc_info=True)
        raise ValueError(f"{rule(path)}, which cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise ValueError(f"{rule(path)}, which something else wrote")
    return checkpoint


def damage(file: Path | str | io.BytesIO) -> str:
    """What is wrong with a file that ``torch.save`` wrote; empty if it is as it was written.

    The file is a zip archive with a CRC-32 of each of its members. ``torch.load`` does not look at them; here they are
    all computed, from one reading of the file in chunks: 1.6 GB/s from memory on one core of a Xeon, so that 30 GB take
    20 seconds, or as long as the disk needs. What lies outside the members only says where they are: if it is damaged,
    a member is not found, or its bytes have another CRC.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            for member in members:
                # torch.save neither compresses nor encrypts, and its reader leaves a folder's bytes unread.
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.external_attr:
                    return f"{member.filename} is no plain member"
                with archive.open(member) as content:
                    while content.read(_CHUNK):
                        pass
            if len(set(names)) < len(names):
                return "a name is in it twice"
    except (OSError, EOFError, ValueError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        return str(error) or type(error).__name__
    return ""


def refuse_to_run(weights_only: bool | None) -> None:
    """Refuse to read a checkpoint in the way that runs the code in it.

    Raises:
        ValueError: If ``weights_only`` is ``False``.
    """
    if weights_only is False:
        raise ValueError("weights_only must not be False: what is in a checkpoint is read, and never run")


def check_for_another_reader(path: _PATH) -> None:
    """Look at a checkpoint that Lightning's first FSDP will read, which runs what is in it.

    Raises:
        ValueError: If it is a folder, is not whole, or holds anything but tensors and plain data.
    """
    if Path(path).is_dir():
        raise ValueError(f"{rule(path)}, which is a folder: only trainer.strategy fsdp2 reads one")
    read_checkpoint(path)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is whole and on the disk.

    Whatever ends the process, a file with a checkpoint's name can be loaded. What a killed process leaves is called
    ``*.partial``, which nothing reads and the next checkpoint of that name overwrites.

    Differs from Lightning's own, which builds the whole file in memory first and may move it from another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write the file, or leave the one that is there.

        Raises:
            FullDiskError: If there is no room for it.
            OSError: If it cannot be written for another reason.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)  # a store that has no files to rename
            return
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file that a Trainer wrote, once every byte of it has been looked at; nothing in it is run.

        Raises:
            ValueError: If there is no such file, it is not whole, something else wrote it, or ``weights_only`` is
                ``False``.
        """
        refuse_to_run(weights_only)
        return read_checkpoint(path, lambda: super(AtomicCheckpointIO, self).load_checkpoint(path, map_location, True))
