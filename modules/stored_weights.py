"""Reads a checkpoint's weights from its files, one after the other and by rows."""

from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@runtime_checkable
class StoredTensor(Protocol):
    """A tensor, or one in a file, of which rows can be had by themselves."""

    def __getitem__(self, rows: slice) -> Tensor:
        """The rows of it."""


StoredWeights: TypeAlias = Iterator[tuple[str, StoredTensor]]


def stored_weights(checkpoint: str, model: nn.Module) -> StoredWeights | None:
    """Every weight of a checkpoint by its name, tied ones once.

    Returns:
        None if the files' names are not the model's, as when Transformers renames weights while it loads them, or if
        they are no safetensors: such a checkpoint has to be loaded whole.

    Raises:
        OSError: If it cannot be had.
        SafetensorError: If a file is damaged.
    """
    files = _files(checkpoint)
    where: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            where |= dict.fromkeys(stored.keys(), file)
    tied: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tied.setdefault(id(tensor), []).append(name)
    chosen = [next((name for name in names if name in where), "") for names in tied.values()]
    known = {name for names in tied.values() for name in names}
    if not files or "" in chosen or not where.keys() <= known:
        return None
    return _read({name: where[name] for name in chosen})


def _files(checkpoint: str) -> list[str]:
    """The checkpoint's safetensors files; empty if it has none."""
    missing = {"_raise_exceptions_for_missing_entries": False}
    whole = cached_file(checkpoint, _WHOLE, **missing)
    if whole is not None:
        return [whole]
    index = cached_file(checkpoint, _INDEX, **missing)
    if index is None:
        return []
    return list(get_checkpoint_shard_files(checkpoint, index)[0])


def _read(files: dict[str, str]) -> StoredWeights:
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as tensors:
            for name, place in files.items():
                if place == file:
                    yield name, tensors.get_slice(name)
