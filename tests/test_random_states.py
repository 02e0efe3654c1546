"""Every generator of a process goes back to where it was."""

import random

import numpy as np
import pytest
import torch

from gigpo_lightning.random_states import keep_random_states, random_states, restore_random_states


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(),
        np.random.rand(),
        np.random.randn(),
        float(torch.rand(())),
        torch.randn(3)[2],
    ]


def test_what_is_drawn_after_a_restore_is_what_was_drawn_before():
    draws()  # leaves the second half of a pair of normal draws in NumPy and Python
    states = random_states()
    first = draws()
    assert draws() != first
    restore_random_states(states)
    assert draws() == first


def test_they_go_through_a_file_that_is_read_without_pickle(tmp_path):
    torch.save(random_states(), tmp_path / "states")
    first = draws()
    restore_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert draws() == first


def test_seeding_within_the_block_changes_nothing_after_it():
    states = random_states()
    expected = draws()
    restore_random_states(states)
    with keep_random_states():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
    assert draws() == expected


@pytest.mark.parametrize("name", ["python", "numpy", "torch", "cuda"])
def test_what_is_no_state_is_refused_and_none_is_changed(name):
    states = random_states()
    expected = draws()
    restore_random_states(states)
    for wrong in ({key: value for key, value in states.items() if key != name}, states | {name: 7}):
        with pytest.raises(ValueError, match="random states must be those of Python, NumPy and torch"):
            restore_random_states(wrong)
    assert draws() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_cuda_device_goes_back_too():
    states = random_states()
    devices = range(torch.cuda.device_count())
    first = [float(torch.rand((), device=f"cuda:{device}")) for device in devices]
    restore_random_states(states)
    assert [float(torch.rand((), device=f"cuda:{device}")) for device in devices] == first
