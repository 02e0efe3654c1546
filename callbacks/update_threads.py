"""The callback that gives the update all cores, also those that environments use during the rollout."""

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# By name, before an engine starts: vLLM on CPUs replaces torch.set_num_threads by a function that does nothing.
from torch import get_num_threads, set_num_threads

from gigpo_lightning.errors import check_count


class UpdateThreads(Callback):
    """Computes the update on more threads than the rollout, on a CPU.

    While episodes are played, engine and environment workers share the cores, and a second thread of the engine costs
    more than it brings; during the update the workers idle.

    Args:
        num_threads: Threads of the update; default: ``OMP_NUM_THREADS`` if it is set, else one a core.

    Raises:
        ValueError: If ``num_threads`` < 1.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        if num_threads is None:
            num_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        check_count("num_threads", num_threads)
        self.num_threads = num_threads
        self._before = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the threads."""
        self._before = get_num_threads()
        if pl_module.device.type == "cpu":
            set_num_threads(self.num_threads)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Give them back."""
        set_num_threads(self._before)
