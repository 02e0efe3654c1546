"""What a run asks of its process."""

import os
import subprocess
import sys

import pytest

KEEPS = """
import resource
import torch
from gigpo_lightning import machine

torch.set_num_threads(1)
if {kept}:
    machine.keep_memory()
for _ in range(2):  # the first takes the memory, and a library's own with it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        some = [torch.ones(2_000_000) for _ in range(20)]
        del some
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GIVES_BACK = """
import psutil
import torch
from gigpo_lightning import machine

machine.keep_memory()
stays = []
before = psutil.Process().memory_info().rss
for size in range(10_000_000, 14_000_000, 200_000):  # each a little larger than the one before
    large = torch.ones(size)
    stays.append(torch.ones(50_000))
    del large
print(psutil.Process().memory_info().rss - before)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's"),
]


def said(script: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    return int(subprocess.check_output([sys.executable, "-c", script], env=environment, text=True))


def test_tensors_take_the_memory_of_those_before_them():
    kept, given_back = (said(KEEPS.format(kept=kept)) for kept in (True, False))
    assert kept < given_back / 10


def test_a_large_tensor_s_memory_goes_back_even_below_one_that_stays():
    assert said(GIVES_BACK) < 200e6  # the large ones together: 960e6
