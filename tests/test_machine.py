"""What a run asks of its process."""

import os
import subprocess
import sys

import pytest

KEEPS = """
import ctypes
import resource
from gigpo_lightning import machine

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
if {kept}:
    machine.keep_memory()
for _ in range(3):  # the first takes the memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [ctypes.c_void_p(library.malloc(ctypes.c_size_t(8 << 20))) for _ in range(20)]  # as tensors do
    for piece in pieces:
        ctypes.memset(piece, 1, 8 << 20)
    for piece in pieces:
        library.free(piece)
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
TRIMS = """
import psutil
import torch
from gigpo_lightning import machine

machine.keep_memory()
pieces = [torch.ones(250_000) for _ in range(400)]
stays = pieces[::2]
del pieces
before = psutil.Process().memory_info().rss
machine.give_memory_back()
print(before - psutil.Process().memory_info().rss)
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


def test_pieces_between_tensors_that_stay_go_back_when_they_are_asked_for():
    assert said(TRIMS) > 180e6  # 200 tensors of a megabyte
