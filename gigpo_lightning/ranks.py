"""What the processes of one job tell each other; alone, a process tells itself."""

from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Every process's value, by rank; every process must call it, and gets the same list.

    Args:
        value: Small, and picklable: the processes of a job trust each other.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[T | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place has been filled
