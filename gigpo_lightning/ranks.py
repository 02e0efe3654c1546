"""What the processes of one job tell each other; alone, a process tells itself."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch.distributed

T = TypeVar("T")
_LETTING_GO = 0.5  # seconds; microseconds do on an idle machine


def gather(value: T) -> list[T]:
    """Every process's value, small and picklable, by rank; every process must call it, and gets the same list."""
    _, ranks = place()
    if ranks == 1:
        return [value]
    values: list[T | None] = [None] * ranks
    torch.distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place has been filled


def place() -> tuple[int, int]:
    """This process's rank, and the number of ranks; alone, 0 of 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def together(action: Callable[[], T]) -> T:
    """What an action gives; what it raises on one process, it raises on all, so that none waits for another.

    Raises:
        Exception: An ``OSError``, ``RuntimeError`` or ``ValueError`` of the action: this process's own, or the first's.
    """
    values: list[T] = []
    error: Exception | None = None
    try:
        values.append(action())
    except (OSError, RuntimeError, ValueError) as raised:
        error = raised
    if errors := [each for each in gather(error) if each is not None]:
        raise error or errors[0]
    return values[0]


def interleave(by_rank: Sequence[Sequence[T]]) -> list[T]:
    """Put what was dealt out to the ranks one by one back in its first order.

    Example:
        >>> interleave([["a", "c", "e"], ["b", "d"]])
        ['a', 'b', 'c', 'd', 'e']
    """
    turns = range(max(map(len, by_rank), default=0))
    return [of_rank[turn] for turn in turns for of_rank in by_rank if turn < len(of_rank)]


def end_processes(processes: Iterable[subprocess.Popen[bytes]], patience: float = 10.0) -> None:
    """End the ranks that this one has launched; for ``patience`` seconds they may say what they have to say."""
    deadline = time.monotonic() + patience
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()


def wait_for_tensors_to_go() -> None:
    """Wait, in a job of several processes, until no thread of it holds a tensor; when all has ended well.

    One that frees a tensor while the interpreter ends aborts the process, and with it a job that has succeeded. Groups
    are not destroyed here: an engine has its own, and destroys them at exit.
    """
    _, ranks = place()
    if ranks > 1:
        time.sleep(_LETTING_GO)
