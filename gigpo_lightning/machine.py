"""Settings of a process that suit what a run does with a machine's cores and memory."""

import ctypes
import os

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_TENSOR, _FREE = 32 << 20, 1 << 30  # bytes


def share_the_machine() -> None:
    """Settings of the process that leave memory and cores to the rest of a run, unless the user has said otherwise."""
    # oneDNN compiles every new shape of a matrix product, and keeps 1024 of them: half a GiB, seldom used again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if "OMP_NUM_THREADS" not in os.environ:
        # Contended, two threads are several times slower than one; environment workers want the other core.
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    keep_memory()


def keep_memory() -> None:
    """Have the C library keep up to a GiB that is free, where its memory allocator can be told so (glibc's).

    By default it gives much memory back to the system, which clears it again for the next tensor of the same size.
    The memory of a tensor of more than 32 MiB still goes back at once. If it were kept, it would seldom fit the next
    one, and a run's memory would grow from update to update.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and not any(name.startswith("MALLOC_") for name in os.environ):
        library.mallopt(_MMAP_THRESHOLD, _TENSOR)
        library.mallopt(_TRIM_THRESHOLD, _FREE)


def give_memory_back() -> None:
    """Have the C library give what is free to the system, where it can be told so (glibc's).

    The tensors of each update have other sizes. Free pieces stay between tensors that are kept, the next update cannot
    use them all, and a run's memory grows. Called once an iteration, this costs little.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
