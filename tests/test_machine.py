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
        torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_large_tensor_takes_the_memory_of_the_one_before_it():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(kept: bool) -> int:
        script = KEEPS.format(kept=kept)
        return int(subprocess.check_output([sys.executable, "-c", script], env=environment, text=True))

    assert faults(kept=True) < faults(kept=False) / 10
