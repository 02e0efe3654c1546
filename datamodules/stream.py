"""A loader that passes on what a generator yields."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset


def stream(make: Callable[[], Iterator[Any]]) -> DataLoader[Any]:
    """Make a loader that calls a generator function anew for every epoch: no batching, no workers, no copies.

    It has a random generator of its own, or it would draw a seed for workers that it has not from the process's.
    """
    return DataLoader(_Stream(make), batch_size=None, num_workers=0, generator=torch.Generator())


class _Stream(IterableDataset[Any]):
    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return self._make()
