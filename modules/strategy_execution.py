"""Carries out updates through a Trainer's strategy."""

from contextlib import AbstractContextManager
from typing import cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from modules.policy_module import PolicyModule


class StrategyExecution:
    """Carries an update out as the Trainer's strategy and precision want it."""

    def __init__(self, module: PolicyModule) -> None:
        self._module = module
        self._trainer = module.trainer
        self.device = module.device

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Have the last micro-batch alone share the gradients out."""
        return cast("LightningOptimizer", self._module.optimizers()).toggle_model(sync_grad=last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients: each rank has its share of the loss, and strategies average where a sum is wanted."""
        self._module.manual_backward(loss * self._trainer.world_size)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to the largest norm; their norm before, over all ranks."""
        model = self._trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            return model.clip_grad_norm_(max_norm)
        norm = torch.nn.utils.clip_grad_norm_(self._module.policy.parameters(), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        return cast("Tensor", self._trainer.strategy.reduce(values, reduce_op="sum"))
