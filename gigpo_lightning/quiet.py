"""Lines of libraries that a run leaves out, each by name; ``GIGPO_LOG_LEVEL=DEBUG`` shows them all."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence

# Lines that tell a user nothing to act on, by the logger of a library that writes them; they begin so.
_NOISE = {
    "lightning.pytorch.utilities.rank_zero": (
        "💡 Tip: ",  # advertisements
        "GPU available: False",  # a run that needs one is refused
        "TPU available: False",
        # The module says which checkpoint it is, and how far its run had come.
        "Restoring states from the checkpoint path",
        "Restored all states from the checkpoint",
        "Loaded model weights from the checkpoint",
    ),
    "vllm.triton_utils.importing": ("Triton ",),  # on CPUs, where it is not needed
}

# Warnings that are true, known, and nothing that a user could do anything about; parts of them.
_NOISE_IN_WARNINGS = (
    "does not have many workers",
    "sync_dist=True",
    "LeafSpec",
    "torch.distributed.reduce_op",
    "IterableDataset. has .__len__",
    "You have overridden .transfer_batch_to_device",
    "The dirpath has changed from",  # a resumed run has a folder of its own
    "predict returned None",  # episodes go into a file
    r"module\(s\) in eval mode",  # a policy is trained as the engine samples from it: without dropout
)


def leave_out_noise() -> None:
    """Leave out the lines of libraries that nobody can act on."""
    if shows_everything():
        return
    for name, beginnings in _NOISE.items():
        logging.getLogger(name).addFilter(_Without(beginnings))
    for part in _NOISE_IN_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{part}")


def shows_everything() -> bool:
    """Whether the user wants to see every line."""
    return os.environ.get("GIGPO_LOG_LEVEL") == "DEBUG"


@contextlib.contextmanager
def without_line(part: str) -> Iterator[None]:
    """Leave out the lines with a text that compiled code writes to stderr meanwhile, past every logger.

    All other lines are shown at the end: for calls that take no time.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if part.encode() not in line:
                    os.write(2, line)


class _Without(logging.Filter):
    """Lets everything pass but lines that begin with certain words."""

    def __init__(self, beginnings: Sequence[str]) -> None:
        super().__init__()
        self._beginnings = tuple(beginnings)

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginnings)
