"""The shared base of the LightningModules that train a policy."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from callbacks.lightning_internals import is_made_by_command_line, trainer_of
from gigpo_lightning.policy_view import AdaptedWeights
from gigpo_lightning.ranks import gather
from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.token_trees import RowRules
from modules.attention import Attention
from modules.finite import first_not_finite
from modules.finite_weights import trained_state, way_back
from modules.policy import Policy, PolicySource
from modules.sharding import named_weights, weight_shapes
from modules.tokenizer import TransformersTokenizer


class PolicyModule(LightningModule):
    """Builds a policy when the Trainer is there, and shows it as a strategy may have sharded it.

    A checkpoint of a run of the command line holds the configuration of the module, of which ``load_from_checkpoint``
    makes it again; made in Python, a module's constructor arguments are given anew.

    Args:
        policy: Where the policy comes from.
    """

    def __init__(self, policy: PolicySource) -> None:
        super().__init__()
        if is_made_by_command_line():  # else there are objects, which a checkpoint could not hold
            self.save_hyperparameters(logger=False)
        self.policy_source = policy
        self._policy: Policy | None = None
        self._updated_epoch: int | None = None  # of the latest update; None since the weights were loaded

    @property
    def policy(self) -> Policy:
        """The policy that is trained; it exists once the Trainer has called ``configure_model``."""
        if self._policy is None:
            self.configure_model()
        assert self._policy is not None
        return self._policy

    @property
    def has_learnt(self) -> bool:
        """Whether there has been an update since the weights were loaded."""
        return self._updated_epoch is not None

    @property
    def tokenizer(self) -> TransformersTokenizer:
        """The policy's."""
        return self.policy.tokenizer

    @property
    def attention(self) -> Attention:
        """How the policy computes attention where it is."""
        return self.policy.attention(self.device.type)

    @property
    def row_rules(self) -> RowRules:
        """How the policy's attention wants sequences to lie in rows."""
        return self.attention.rules

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the policy's embedding has a row for."""
        return self.policy.vocabulary_size

    @property
    def adapted(self) -> AdaptedWeights | None:
        """The policy's weights and adapters apart, if it has adapters."""
        return self.policy.adapted

    def save_architecture(self, folder: str | Path) -> None:
        """Write the ``config.json`` that an engine starts on."""
        self.policy.save_architecture(folder)

    def forward(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """What the policy says: log-probabilities and entropies, ``(S, R)``."""
        logprobs, entropy = self.policy(tokens, temperature)
        return logprobs, entropy

    @torch.no_grad()
    def score(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """As ``forward``, in the precision of a training step but without gradients and dropout; for all ranks."""
        trainer, root = trainer_of(self), self._root
        precision = contextlib.nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
        training = self.policy.training
        self.policy.eval()
        with precision:
            model = root if isinstance(root, FullyShardedDataParallel) else self
            logprobs, entropy = model(tokens.to(self.device), temperature)
        self.policy.train(training)
        return logprobs, entropy

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights by their checkpoint's names, gathered where they are sharded; for all ranks together."""
        return named_weights(self.policy, self._root)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights``, in its order; for all ranks together."""
        return weight_shapes(self.policy, self._root)

    def check_finite_weights(self) -> None:
        """Refuse to keep, or to sample from, weights that an update has ruined; for all ranks together.

        Weights and Adam's two moments are read once, at 5 GB/s on one core: 1 ms for the tiny policies, 4 s for 1.5
        billion float32 weights on a CPU, and on a GPU milliseconds.

        Raises:
            FloatingPointError: If one is not finite; the message names it, the epoch, and the checkpoint to go on from.
        """
        trainer = trainer_of(self)
        found = first_not_finite(trained_state(self, trainer))
        is_sharded = any(isinstance(each, DTensor) for each in self.parameters())
        if is_sharded or isinstance(self._root, FullyShardedDataParallel):
            found = next(filter(None, gather(found)), "")
        if not found:
            return
        if self._updated_epoch is None or trainer is None:
            raise FloatingPointError(f"{found} must be finite, but was not when it was loaded")
        rates = sorted({float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups})
        raise FloatingPointError(
            f"{found} must be finite, but is not after the updates of epoch {self._updated_epoch}; it is not kept, and "
            f"no checkpoint was replaced. Lower the learning rate (now {', '.join(f'{rate:g}' for rate in rates)}) or "
            f"the largest norm of gradients, and {way_back(trainer)}"
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: each step moves what it needs, when it needs it."""
        return batch

    @property
    def _root(self) -> nn.Module | None:
        """What the strategy has made of this module."""
        trainer = trainer_of(self)
        return None if trainer is None else trainer.strategy.model
