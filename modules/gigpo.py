"""The LightningModule that turns minibatches of credited steps into better weights."""

import contextlib
import copy
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from gigpo_lightning.algorithm import CreditEstimator
from gigpo_lightning.algorithm.losses import LossSettings, LossTerms, policy_loss
from gigpo_lightning.batch import Minibatch, StepBatch
from gigpo_lightning.random_states import random_states, restore_random_states
from gigpo_lightning.ranks import gather
from gigpo_lightning.token_batch import TokenBatch
from modules.checkpoint_io import check_for_another_reader
from modules.checkpoint_state import (
    check_kept,
    check_training_state,
    check_weights,
    log_again,
    restored,
    storable,
    unlogged_metrics,
)
from modules.finite_weights import check_finite_weights, way_back
from modules.fsdp2 import FSDP2Strategy
from modules.lora import AdaptedPolicy
from modules.policy import Policy, PolicySource
from modules.rehearsal import Rehearsal, check_trainer, rehearse_optimization, rehearse_policy
from modules.run_folder import RunFolder
from modules.sharding import PREFIX, named_weights, weight_shapes, wrap_blocks

_logger = logging.getLogger(__name__)


class GiGPOModule(LightningModule):
    """Trains a policy on steps whose credit has been assigned.

    One training step is one optimizer step on one minibatch. The advantage arrives as data, so a new way of assigning
    credit never touches this class.

    Args:
        policy: Where the policy comes from.
        credit: Assigns the advantage of every step; used where the rollout's table is made.
        loss: The loss and its coefficients.
        optimizer: Makes the optimizer of the policy's parameters.
        lr_scheduler: Makes the learning-rate scheduler, stepped once an epoch; default: constant.
        max_grad_norm: Gradients are scaled down to this norm, in units of loss per parameter.

    Raises:
        ValueError: If ``max_grad_norm`` is not positive.
    """

    optimizer_arguments = ("optimizer", "lr_scheduler")
    """The arguments that a run which goes on takes from its checkpoint."""

    def __init__(
        self,
        policy: PolicySource,
        credit: CreditEstimator,
        loss: LossSettings = LossSettings(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
        self.automatic_optimization = False
        self.policy_source = policy
        self.credit = credit
        self.loss_settings = loss
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.max_grad_norm = max_grad_norm
        self.policy_version = 0
        self.iteration = 0  # Lightning's own epoch lags behind while a resumed run asks for its first data
        self._policy: Policy | None = None
        self.reference: Policy | None = None
        self._update_seconds = 0.0
        self._updated_epoch: int | None = None
        self._logged = ["policy", "kl", "entropy", "clip_fraction", "approximate_kl"]
        if loss.importance_correction is not None:
            self._logged += ["engine_kl", "correction_weight", "corrected_fraction"]

    def setup(self, stage: str) -> None:
        """Refuse what would train something else than was asked for, or run what is in a checkpoint.

        Raises:
            ValueError: If the strategy would run what is in the checkpoint, ``trainer.precision`` is one that converts
                every tensor or scales gradients, or several ranks would each see a part of what the estimator must see
                whole.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy) and self.trainer.ckpt_path is not None:
            check_for_another_reader(self.trainer.ckpt_path)
        check_trainer(self.trainer, self.credit)

    def rehearse(self, trainer: Any) -> Rehearsal:
        """Try out the policy without its weights, the optimizer and the scheduler, before anything is started.

        Raises:
            ValueError: If a part of it could not train.
        """
        check_trainer(trainer, self.credit)
        rehearsal = rehearse_policy(self.policy_source)
        rehearse_optimization(rehearsal.policy, self.make_optimizer, self.make_lr_scheduler, trainer.max_epochs)
        return rehearsal

    def configure_callbacks(self) -> list[Callback]:
        """Claim the run's folder, before any process makes data or logs; a subclass's own should keep this one."""
        return [RunFolder(self.trainer)]

    @property
    def policy(self) -> Policy:
        """The policy that is trained; it exists once the Trainer has called ``configure_model``."""
        if self._policy is None:
            self.configure_model()
        assert self._policy is not None
        return self._policy

    @property
    def progress(self) -> float:
        """Share of the training that is done: 0 in its first epoch, 1 in its last, not a number where there is none."""
        last = (self.trainer.max_epochs or 0) - 1
        return min(1.0, self.iteration / max(1, last)) if last >= 0 else math.nan

    def prepare(self, minibatches: list[Minibatch]) -> list[Minibatch]:
        """What a rollout's minibatches need of this module before the first of them updates it."""
        if self.loss_settings.importance_correction is None:
            return minibatches
        training = self.policy.training
        self.policy.eval()
        prepared = [self._with_old_logprobs(minibatch) for minibatch in minibatches]
        self.policy.train(training)
        return prepared

    @torch.no_grad()
    def _with_old_logprobs(self, minibatch: Minibatch) -> Minibatch:
        """The same minibatch, with ratios taken to this module's probabilities and no more to the engine's."""
        micro_batches = []
        for part in minibatch.micro_batches:
            moved = part.to(self.device)
            with self.trainer.precision_plugin.forward_context():  # as in training_step, or on-policy ratios miss 1
                logprobs, _ = self.score(moved.tokens, minibatch.temperature)
            micro_batches.append(dataclasses.replace(part, old_logprobs=logprobs.float().cpu()))
        return dataclasses.replace(minibatch, micro_batches=tuple(micro_batches))

    def forward(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """What the policy says: log-probabilities and entropies, ``(S, R)``."""
        logprobs, entropy = self.policy(tokens, temperature)
        return logprobs, entropy

    @torch.no_grad()
    def score(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """As ``forward``, without gradients and outside of a training step; all ranks have to ask together."""
        root = self.trainer.strategy.model if self._trainer is not None else None
        model = root if isinstance(root, FullyShardedDataParallel) else self
        logprobs, entropy = model(tokens, temperature)
        return logprobs, entropy

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights by their checkpoint's names, gathered where they are sharded; for all ranks together."""
        root = self.trainer.strategy.model if self._trainer is not None else None
        return named_weights(self.policy, root)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights``, in its order; for all ranks together."""
        root = self.trainer.strategy.model if self._trainer is not None else None
        return weight_shapes(self.policy, root)

    def check_finite_weights(self) -> None:
        """Refuse to keep, or to sample from, weights that an update has ruined; for all ranks together.

        Raises:
            FloatingPointError: If one is not finite; the message names it, the epoch, and the checkpoint to go on from.
        """
        check_finite_weights(self, self._updated_epoch)

    def configure_model(self) -> None:
        """Build the policy and, where a KL coefficient asks for one, its frozen reference; shard them if wanted.

        The reference of a policy with adapters is the policy without them.
        """
        if self._policy is not None:
            return
        strategy = self.trainer.strategy if self._trainer is not None else None
        sharding = strategy if isinstance(strategy, FSDP2Strategy) else None
        self._policy = sharding.make(self.policy_source) if sharding else self.policy_source.build()
        if self.loss_settings.kl_coefficient > 0 and not isinstance(self._policy, AdaptedPolicy):
            again = sharding.make_again(self._policy, self.policy_source) if sharding else copy.deepcopy(self._policy)
            self.reference = again.eval().requires_grad_(False)
        self.strict_loading = not self._frozen()
        if not sharding:
            for policy in filter(None, (self._policy, self.reference)):
                wrap_blocks(policy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and, if there is one, the scheduler."""
        optimizer = self.make_optimizer([each for each in self.policy.parameters() if each.requires_grad])
        if self.make_lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": cast("Any", self.make_lr_scheduler(optimizer))}

    def training_step(self, batch: Minibatch, batch_idx: int) -> None:
        """Accumulate the micro-batches' gradients, then take one optimizer step.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite; this minibatch has changed no weight.
        """
        started = time.perf_counter()
        optimizer = cast("LightningOptimizer", self.optimizers())
        optimizer.zero_grad()
        totals = torch.zeros(len(self._logged), device=self.device)
        for index, micro_batch in enumerate(batch.micro_batches):
            last = index == len(batch.micro_batches) - 1
            with optimizer.toggle_model(sync_grad=last):
                terms = self._terms(micro_batch, batch)
                self._check_finite("loss", terms.loss, batch, batch_idx)
                # Each rank has its share of the minibatch's loss; strategies average gradients where a sum is wanted.
                self.manual_backward(terms.loss * self.trainer.world_size)
            totals += torch.stack([getattr(terms, name).detach().float() for name in self._logged])
        norm = self._clip_gradients()
        self._check_finite("gradient norm", norm, batch, batch_idx)
        optimizer.step()
        self.policy_version += 1
        self._updated_epoch = self.current_epoch
        totals = cast("Tensor", self.trainer.strategy.reduce(totals, reduce_op="sum"))
        # Numbers, and no tensors: a tensor is reduced where it lies, and NCCL takes none that lies on a CPU.
        named = {f"loss/{name}": value for name, value in zip(self._logged, totals.tolist(), strict=True)}
        named["loss/gradient_norm"] = norm.item()
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=batch.counts.num_rows, sync_dist=True)
        self._update_seconds += time.perf_counter() - started

    def _clip_gradients(self) -> Tensor:
        """Scale the gradients down to the largest norm; their norm before, over all ranks."""
        model = self.trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            return model.clip_grad_norm_(self.max_grad_norm)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def on_train_epoch_start(self) -> None:
        """Start the clock of the update."""
        self._update_seconds = 0.0
        self.policy.train()

    def on_train_epoch_end(self) -> None:
        """Count the iteration, step the scheduler, and log the time of the update and the learning rate."""
        self.iteration += 1
        scheduler = self.lr_schedulers()
        if scheduler is not None:
            cast("torch.optim.lr_scheduler.LRScheduler", scheduler).step()
        optimizer = cast("LightningOptimizer", self.optimizers())
        self.log("time/update", self._update_seconds, sync_dist=True)
        self.log("loss/learning_rate", float(optimizer.param_groups[0]["lr"]), sync_dist=True)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: each step moves what it needs, when it needs it."""
        return batch

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Hand the held-out episodes on to the callbacks that count them."""
        return batch

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Hand the held-out episodes on to the callbacks that count them."""
        return batch

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing: the episodes have been played, and the Transcripts callback writes them down."""

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The weights that are trained; a reference, and the weights beside adapters, come from where they came from.

        A checkpoint is made of this, so that nothing else is gathered from the ranks for it.
        """
        reference = self._modules.pop("reference", None)  # Lightning's FSDP gathers while it walks through the modules
        try:
            state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        finally:
            if reference is not None:
                self._modules["reference"] = reference
        for name in self._frozen():
            state.pop(prefix + name, None)
        return state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the version, the number of epochs done, what the estimator remembers, and every rank's random states.

        Raises:
            FloatingPointError: If a weight is not finite; no checkpoint is replaced by it.
        """
        self.check_finite_weights()
        checkpoint["gigpo"] = {
            "policy_version": self.policy_version,
            "iteration": self.iteration,
            "credit": storable(self.credit.state_dict(), type(self.credit).__name__),
            "random_states": gather(random_states()),  # only the first rank's dictionary is written
            "unlogged": unlogged_metrics(self.trainer) if self._trainer is not None else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back, once all that is in the checkpoint has proved to be this run's.

        Raises:
            ValueError: If the checkpoint was not written by this module, holds another policy's weights, or cannot be
                gone on from.
        """
        kept = self.check_checkpoint(checkpoint)
        trainer = self._trainer
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if trainer is not None and fitting:
            restore_random_states(kept["random_states"][self.global_rank % len(kept["random_states"])])
            log_again(trainer, kept["unlogged"])
        self.policy_version, self.iteration = kept["policy_version"], kept["iteration"]
        self.credit.load_state_dict(restored(kept["credit"]))
        path = trainer.ckpt_path if trainer is not None else None
        if path is not None and self.global_rank == 0:
            what = "going on from" if fitting else "playing with the policy of"
            done, step = self.iteration, checkpoint.get("global_step")
            _logger.info("%s %s: %d epochs done, global step %s", what, path, done, step)

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Look at all of a checkpoint before any of it is taken; what this module keeps in it.

        Raises:
            ValueError: If this module did not write it, it holds another policy's weights, or it cannot be gone on
                from.
        """
        trainer = self._trainer
        path = trainer.ckpt_path if trainer is not None else None
        rule = f"ckpt_path {str(path)!r} must name a checkpoint" if path else "ckpt_path must name a checkpoint"
        kept = check_kept(checkpoint, self.credit, rule)
        if "state_dict" in checkpoint:  # a folder, in which each rank has a file, is loaded in place
            check_weights(checkpoint["state_dict"], self.state_dict(), rule)
            if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
                num_parameters = sum(each.requires_grad for each in self.policy.parameters())
                check_training_state(checkpoint, num_parameters, self.make_lr_scheduler is not None, rule)
        return kept

    def _frozen(self) -> set[str]:
        """Names of the weights that are never trained, as ``state_dict`` has them."""
        named = self.named_parameters(remove_duplicate=False)
        return {name.replace(PREFIX, "") for name, weight in named if not weight.requires_grad}

    def _terms(self, micro_batch: StepBatch, batch: Minibatch) -> LossTerms:
        """Loss of a micro-batch, divided by the whole minibatch's counts, so that micro-batches add up."""
        micro_batch = micro_batch.to(self.device)
        logprobs, entropy = self.policy(micro_batch.tokens, batch.temperature)
        ref_logprobs = self._ref_logprobs(micro_batch, batch.temperature)
        return policy_loss(
            self.loss_settings,
            logprobs=logprobs,
            old_logprobs=micro_batch.old_logprobs,
            entropy=entropy,
            ref_logprobs=ref_logprobs,
            advantage=micro_batch.advantage,
            action_mask=micro_batch.tokens.action_mask,
            row_weight=micro_batch.row_weight,
            counts=batch.counts,
            engine_logprobs=micro_batch.engine_logprobs,
            trajectory_share=micro_batch.trajectory_share,
            progress=self.progress,
        )

    @torch.no_grad()
    def _ref_logprobs(self, micro_batch: StepBatch, temperature: float) -> Tensor | None:
        """Log-probabilities of the frozen reference, where the loss wants one."""
        if not self.loss_settings.kl_coefficient:
            return None
        reference = self.reference or self.policy
        off = self.policy.without_adapters() if isinstance(self.policy, AdaptedPolicy) else contextlib.nullcontext()
        with off:
            ref_logprobs: Tensor = reference(micro_batch.tokens, temperature)[0]
        return ref_logprobs

    def _check_finite(self, what: str, value: Tensor, batch: Minibatch, batch_idx: int) -> None:
        if math.isfinite(value.item()):
            return
        rows = sorted(int(row) for micro_batch in batch.micro_batches for row in micro_batch.row)
        raise FloatingPointError(
            f"the {what} must be finite, got {value.item()} in epoch {self.current_epoch}, minibatch {batch_idx}, rows "
            f"{rows[0]} to {rows[-1]} of the rollout's table; updates of this epoch before it: "
            f"{batch_idx}; no checkpoint was replaced. Lower the learning rate or max_grad_norm, and "
            f"{way_back(self.trainer)}"
        )
