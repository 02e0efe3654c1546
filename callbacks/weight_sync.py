"""The callback that gives the engine the trainer's weights, and proves that it has them."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

from callbacks.lightning_internals import typed
from gigpo_lightning.engines.base import RolloutEngine
from gigpo_lightning.interruption import never
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.rollout.sync import ProvedSync


class WeightSync(Callback):
    """Loads the policy into the engine before each rollout, and proves that the engine has it, bit by bit.

    A sync that fails silently is the costliest bug of the field: rollouts go on, from old weights. So after every sync
    the engine's weights are read back where it computes with them, and must equal the trainer's, cast to the engine's
    type; no tolerance decides. Then trainer and engine score probe sequences: how far their kernels differ is logged.

    Every run has this callback; name it to set it. The DataModule calls ``sync``, because Lightning asks for data
    earlier than its hooks suggest: the first rollout comes before ``on_train_start``.

    Args:
        num_probes: Number of probe sequences.
        probe_tokens: Tokens of each.
        sleep: Put the engine to sleep while the policy is updated, and load the weights anew when it wakes: where both
            share a GPU, each has the other's memory in its turn. ``VLLMEngine`` then needs ``allow_sleep: true``.
        adapters: Give the engine a policy's LoRA adapters beside its weights, which are then loaded only once; the
            engine needs room for them (``max_lora_rank``). Otherwise they are added to the weights.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self, num_probes: int = 4, probe_tokens: int = 24, sleep: bool = False, adapters: bool = False
    ) -> None:
        self.sleep = sleep
        self.adapters = adapters
        self.proved = ProvedSync(num_probes, probe_tokens, adapters)
        self._engine: RolloutEngine | None = None
        self._profiler: Profiler = PassThroughProfiler()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have syncs show up in the Trainer's profiler."""
        self._profiler = typed(trainer).profiler

    @property
    def metrics(self) -> dict[str, float]:
        """The latest sync's figures."""
        return self.proved.metrics

    def sync(self, policy: PolicyView, engine: RolloutEngine, should_stop: Callable[[], bool] = never) -> None:
        """Bring the engine to the policy's version, as ``ProvedSync.sync`` does."""
        with self._profiler.profile("sync"):
            self.proved.sync(policy, engine, should_stop)
        self._engine = engine

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the engine to sleep before the first update: the epoch's episodes have been played."""
        if self.sleep and batch_idx == 0 and self._engine is not None:
            self._engine.sleep()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the latest sync."""
        pl_module.log_dict(self.metrics, sync_dist=True, reduce_fx="max")  # of any rank
