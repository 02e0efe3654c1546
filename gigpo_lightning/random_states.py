"""The random states of a process, as a checkpoint can hold them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """State of every global generator: Python's, NumPy's legacy one, torch's on the CPU and on each CUDA device.

    Made of numbers, strings and tensors alone: checkpoints are loaded without pickle.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put the generators back to where they were.

    CUDA devices that were not there when the states were collected keep theirs.

    Raises:
        ValueError: If these are no random states; then none has been changed.
    """
    before = random_states()
    try:
        _restore(states)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        _restore(before)
        raise ValueError(f"random states must be those of Python, NumPy and torch: {error!r}") from error


@contextmanager
def keep_random_states() -> Iterator[None]:
    """Leave the generators as they were before the block, whatever it draws or seeds."""
    before = random_states()
    try:
        yield
    finally:
        _restore(before)


def _restore(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
