"""Reads the ``.metadata`` of a checkpoint's folder without running code in it.

PyTorch stores the place of each tensor as a pickle, and its own reader runs any code in such a file. Here each class
that the file may contain is first read as an inert record. Real objects are made from these records afterwards.
"""

import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint import filesystem, metadata


class _Record:
    """Stands for an object of a known class, and does nothing."""

    def __new__(cls, *arguments: Any) -> "_Record":
        record = super().__new__(cls)
        record.arguments, record.state = arguments, {}
        return record

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _properties(record: _Record) -> metadata.TensorProperties:
    properties: Any = metadata.TensorProperties.__new__(metadata.TensorProperties)
    properties.__setstate__(_real(record.state))
    return cast("metadata.TensorProperties", properties)


def _of_fields(kind: type[Any]) -> Callable[[_Record], Any]:
    return lambda record: kind(**{name: _real(value) for name, value in record.state.items()})


_MAKERS: dict[tuple[str, str], Callable[[_Record], Any]] = {
    **{
        (kind.__module__, kind.__name__): _of_fields(kind)
        for kind in (
            metadata.Metadata,
            metadata.TensorStorageMetadata,
            metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            filesystem._StorageInfo,
        )
    },
    (metadata.__name__, "TensorProperties"): _properties,
    (metadata.__name__, "_MEM_FORMAT_ENCODING"): lambda record: metadata._MEM_FORMAT_ENCODING(*record.arguments),
    ("torch", "Size"): lambda record: torch.Size(*record.arguments),
    ("torch.serialization", "_get_layout"): lambda record: {str(torch.strided): torch.strided}[record.arguments[0]],
    # Where a checkpoint once lay: not needed, and the only path in it.
    **dict.fromkeys(product(("pathlib", "pathlib._local"), ("PosixPath", "WindowsPath")), lambda record: None),
}


class _InertUnpickler(pickle.Unpickler):
    """Knows the names of a few classes, and calls none of them."""

    def find_class(self, module: str, name: str) -> Any:
        """An inert class of that name, which is this file's alone; types of numbers are themselves."""
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        if (module, name) not in _MAKERS:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return type(name, (_Record,), {"maker": staticmethod(_MAKERS[module, name])})


def _real(value: Any) -> Any:
    """The objects that records stand for."""
    if isinstance(value, _Record):
        return vars(type(value))["maker"](value)
    if isinstance(value, dict):
        return {_real(key): _real(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_real, value))
    return value


def read_metadata(file: Path) -> metadata.Metadata:
    """Where the tensors of a folder lie, as PyTorch's distributed checkpoint has written it down.

    Raises:
        ValueError: If the file holds anything else; nothing in it has been run.
    """
    try:
        with file.open("rb") as stream:
            found = _real(_InertUnpickler(stream).load())
    except Exception as error:  # whatever a pickle of nonsense can raise
        raise ValueError(f"{file.name} is damaged or something else: {str(error) or type(error).__name__}") from error
    if not isinstance(found, metadata.Metadata) or not isinstance(found.storage_data, dict):
        raise ValueError(f"{file.name} is no metadata of a checkpoint")
    return found
