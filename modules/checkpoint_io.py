"""How checkpoints reach the disk, and how one that cannot be used is refused."""

import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

_logger = logging.getLogger(__name__)


def check_whole(path: _PATH) -> None:
    """Look, without reading it, whether a file can be a checkpoint: its last bytes say so.

    Raises:
        ValueError: If there is no such file, it was cut short, or it is something else.
    """
    if ":" in str(path).partition("/")[0]:
        return  # of a store or a registry
    if not Path(path).is_file():
        raise ValueError(f"{_rule(path)}, which is no file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{_rule(path)}, which was cut short or is something else")


def _rule(path: _PATH) -> str:
    return f"ckpt_path must name a whole checkpoint that a Trainer wrote, got {str(path)!r}"


def read_checkpoint(path: _PATH, load: Callable[[], Any]) -> dict[str, Any]:
    """Read a file that a Trainer wrote, with whatever reads it.

    Raises:
        ValueError: If there is no such file, it is not whole, or something else wrote it.
    """
    check_whole(path)
    try:
        checkpoint = load()
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        _logger.debug("the whole story:", exc_info=True)
        raise ValueError(f"{_rule(path)}, which cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise ValueError(f"{_rule(path)}, which something else wrote")
    return checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is whole and on the disk.

    Whatever ends the process, a file with a checkpoint's name can be loaded. What a killed process leaves is called
    ``*.partial``, which nothing reads and the next checkpoint of that name overwrites.

    Differs from Lightning's own, which builds the whole file in memory first and may move it from another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write the file, or leave the one that is there.

        Raises:
            OSError: If it cannot be written.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)  # a store that has no files to rename
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too, outlasts a machine that loses its power
        finally:
            os.close(folder)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file that a Trainer wrote.

        Raises:
            ValueError: If there is no such file, it is not whole, or something else wrote it.
        """
        return read_checkpoint(
            path, lambda: super(AtomicCheckpointIO, self).load_checkpoint(path, map_location, weights_only)
        )
