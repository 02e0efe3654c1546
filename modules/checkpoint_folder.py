"""A checkpoint as a folder with one file per rank: written whole, and checked before any of it is loaded."""

import io
import logging
import pickle
import shutil
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from gigpo_lightning.disk import flush, put, room_for
from gigpo_lightning.ranks import gather, place, together
from modules.checkpoint_io import read_checkpoint, rule
from modules.checkpoint_metadata import read_metadata

_logger = logging.getLogger(__name__)

META = "meta.pt"
"""The file that holds all but the tensors; it is written last."""

_METADATA = ".metadata"
_FILES = "files"  # an entry of META: each other file's name, with its size in bytes and its CRC-32
_CHUNK = 1 << 24  # bytes


def write_folder(path: Path, state: dict[str, Any], rest: dict[str, Any]) -> None:
    """Write a checkpoint's folder beside its place, and move it there once it is whole; all ranks must call it.

    Args:
        path: The folder; one of that name is replaced.
        state: Weights and optimizer states, of which each rank has its share.
        rest: Everything else, of which the first rank's is written.

    Raises:
        FullDiskError: On every rank, if one has no room; the former folder is still there.
    """
    (rank, _), partial = place(), path.with_name(f"{path.name}.partial")
    files: dict[str, tuple[int, int]] = {}

    def begin() -> None:
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def share() -> dict[str, tuple[int, int]]:
        ours = [file for file in partial.glob("*.distcp") if file.name.startswith(f"__{rank}_")]
        return {file.name: _checksum(file) for file in (*ours, *([partial / _METADATA] if rank == 0 else []))}

    def finish() -> None:
        if rank == 0:
            torch.save(rest | {_FILES: {name: list(files[name]) for name in sorted(files)}}, partial / META)
            flush(partial / META)
            put(partial, path)

    try:
        with room_for(path):
            together(begin)
            _write(state, partial)
            for theirs in gather(together(share)):
                files.update(theirs)
            together(finish)
    except BaseException:
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


class _Writer(FileSystemWriter):
    """Says the system's reason in its message: on their way to other ranks errors lose their causes."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise OSError(f"{error} ({error.__context__})") from error


def _write(state: dict[str, Any], folder: Path) -> None:
    try:
        save(state, storage_writer=_Writer(folder))
    except CheckpointException as error:  # not an Exception, to PyTorch
        _, (first, _) = min(error.failures.items())
        raise OSError(f"{folder} cannot be written: {first}") from error


def open_folder(path: Path) -> tuple[dict[str, Any], Metadata]:
    """Look at all of a checkpoint's folder, each rank at its share of the files; all ranks must call it.

    The folder alone shows whether it is as it was written, also after it was copied: ``meta.pt`` holds the size and the
    CRC-32 of every other file, and has CRC-32s of its own. Nothing in the folder is run. The speed is that of
    ``modules.checkpoint_io.damage``, on every rank.

    Returns:
        Everything but the tensors, and where these lie.

    Raises:
        ValueError: On every rank, if a file is damaged, missing or another checkpoint's.
    """
    return together(lambda: _open(path))


def _open(path: Path) -> tuple[dict[str, Any], Metadata]:
    if not (path / META).is_file():
        raise ValueError(f"{rule(path)}, in which {META} is missing: it was not finished, or is something else")
    rest = read_checkpoint(path / META)
    files: dict[str, tuple[int, int]] | None = rest.pop(_FILES, None)
    present = {file.name for file in path.iterdir()} - {META}
    if files is None:
        _logger.warning("%s was written by an older version, without checksums: damage would go unnoticed", path)
        files = {}
    elif missing := sorted(files.keys() - present):
        raise ValueError(f"{rule(path)}, in which {missing[0]} is missing")
    elif extra := sorted(present - files.keys()):
        raise ValueError(f"{rule(path)}, in which {extra[0]} is another checkpoint's")
    rank, size = place()
    for name in sorted(files)[rank::size]:
        if _checksum(path / name) != tuple(files[name]):
            raise ValueError(f"{rule(path)}, in which {name} is damaged")
    try:
        metadata = read_metadata(path / _METADATA)
    except ValueError as error:
        raise ValueError(f"{rule(path)}, in which {error}") from error
    for where in metadata.storage_data.values():
        if where.relative_path not in present:
            raise ValueError(f"{rule(path)}, in which {where.relative_path} is missing")
    return rest, metadata


def contents(path: Path, metadata: Metadata) -> dict[str, Any]:
    """A folder's weights and optimizers as a checkpoint in one file has them, but for the tensors' values.

    Returns:
        ``state_dict``, of tensors on the meta device, and ``optimizer_states``, of which ``state`` is empty.
    """
    weights: dict[str, torch.Tensor] = {}
    groups: dict[int, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, kind in metadata.state_dict_metadata.items():
        part, _, rest = name.partition(".")
        if part == "state_dict" and isinstance(kind, TensorStorageMetadata):
            weights[rest] = torch.empty(kind.size, dtype=kind.properties.dtype, device="meta")
        elif rest.startswith("param_groups."):
            _, number, setting = rest.split(".", 2)
            groups[int(part.removeprefix("optimizer_"))][int(number)][setting] = _item(path, metadata, name)
    optimizers = [
        {"state": {}, "param_groups": [of_one[number] for number in sorted(of_one)]}
        for _, of_one in sorted(groups.items())
    ]
    return {"state_dict": weights, "optimizer_states": optimizers}


def _item(path: Path, metadata: Metadata, name: str) -> Any:
    where = metadata.storage_data[MetadataIndex(name)]
    with (path / where.relative_path).open("rb") as file:
        file.seek(where.offset)
        item = io.BytesIO(file.read(where.length))
    try:
        return torch.load(item, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{rule(path)}, in which {name} cannot be read: {str(error).splitlines()[0]}") from error


def read_folder(path: Path, state: dict[str, Any], metadata: Metadata) -> None:
    """Read weights and optimizer states in place, each rank its share; all ranks must call it.

    Raises:
        ValueError: On every rank, if something that is asked for is not there, or cannot be read.
    """
    try:
        load(state, storage_reader=_Reader(path, metadata), planner=_Planner())
    except CheckpointException as error:  # not an Exception, to PyTorch
        _, (first, _) = min(error.failures.items())
        raise ValueError(f"{rule(path)}, which cannot be read: {str(first).splitlines()[0]}") from error


class _Reader(FileSystemReader):
    """PyTorch's reader, with metadata that have been read without running them."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return self._metadata


class _Planner(DefaultLoadPlanner):
    """PyTorch's planner, which runs nothing that is not a tensor's bytes either."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain)  # refused here, or harmless
        plain.seek(0)
        super().load_bytes(read_item, plain)


def _checksum(file: Path) -> tuple[int, int]:
    """A file's size in bytes, and its CRC-32."""
    size, crc = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return size, crc
