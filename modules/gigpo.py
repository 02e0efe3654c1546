"""The LightningModule that trains the policy on minibatches of steps with their advantages."""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from callbacks import missing_callbacks
from callbacks.lightning_internals import epochs_done, keep_epochs_whole, trainer_of, typed
from gigpo_lightning.algorithm import CreditEstimator
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.batch import Minibatch, TokenCounts
from gigpo_lightning.machine import give_memory_back
from gigpo_lightning.random_states import random_states, restore_random_states
from gigpo_lightning.ranks import gather
from gigpo_lightning.text import count
from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.update import Learner, NotFiniteError, check_max_grad_norm
from modules.checkpoint_io import check_for_another_reader
from modules.checkpoint_state import (
    check_kept,
    check_place,
    check_training_state,
    check_weights,
    log_again,
    restored,
    storable,
    unlogged_metrics,
)
from modules.finite_weights import way_back
from modules.fsdp2 import FSDP2Strategy
from modules.lora import AdaptedPolicy
from modules.policy import Policy, PolicySource
from modules.policy_module import PolicyModule
from modules.rehearsal import Rehearsal, check_trainer, rehearse_optimization, rehearse_policy
from modules.run_folder import RunFolder
from modules.sharding import PREFIX, wrap_blocks
from modules.strategy_execution import StrategyExecution

_logger = logging.getLogger(__name__)


class GiGPOModule(PolicyModule):
    """Trains a policy on steps whose credit has been assigned.

    One training step is one optimizer step on one minibatch. The advantage arrives as data, so a new way of assigning
    credit never touches this class.

    Args:
        policy: Where the policy comes from.
        credit: Assigns the advantage of every step; used where the rollout's table is made.
        loss: The loss and its coefficients.
        optimizer: Makes the optimizer of the policy's parameters.
        lr_scheduler: Makes the learning-rate scheduler; default: constant. ``lightning.pytorch.cli.ReduceLROnPlateau``
            watches what its ``monitor`` names, at the end of each epoch.
        lr_interval: Whether the scheduler is stepped once an epoch or once an optimizer step.
        max_grad_norm: Gradients are scaled down to this norm, in units of loss per parameter.

    Attributes:
        policy_version: Updates that have made the weights, also in a run that only evaluates a checkpoint's;
            ``Trainer.global_step`` then is 0.
        iteration: Epochs done, and so the number of the one that is played.

    Raises:
        ValueError: If ``max_grad_norm`` is not positive.
    """

    optimizer_arguments = ("optimizer", "lr_scheduler")
    """The arguments that a run which goes on takes from its checkpoint."""

    missing_callbacks = staticmethod(missing_callbacks)  # that a run has unless it names its own

    def __init__(
        self,
        policy: PolicySource,
        credit: CreditEstimator,
        loss: LossSettings = LossSettings(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(policy)
        check_max_grad_norm(max_grad_norm)
        self.automatic_optimization = False
        self.credit = credit
        self.loss_settings = loss
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.max_grad_norm = max_grad_norm
        self.policy_version = 0
        self.reference: Policy | None = None
        self._learner: Learner | None = None
        self._update_seconds = 0.0
        self._token_counts = TokenCounts()

    def setup(self, stage: str) -> None:
        """Refuse a strategy that would run what is in the checkpoint.

        Raises:
            ValueError: If it would.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy) and self.trainer.ckpt_path is not None:
            check_for_another_reader(self.trainer.ckpt_path)

    def rehearse(self, trainer: Any) -> Rehearsal:
        """Try out the policy without its weights, the optimizer and the scheduler, before anything is started.

        Raises:
            ValueError: If a part of it could not train.
        """
        check_trainer(trainer, self.credit)
        rehearsal = rehearse_policy(self.policy_source)
        monitor = rehearse_optimization(
            rehearsal.policy, self.make_optimizer, self.make_lr_scheduler, trainer.max_epochs, self.lr_interval
        )
        return replace(rehearsal, monitor=monitor)

    def configure_callbacks(self) -> list[Callback]:
        """Claim the run's folder, and add the standard callbacks that the Trainer lacks; a subclass keeps both.

        Raises:
            ValueError: If the Trainer would train something else than was asked for.
        """
        check_trainer(self.trainer, self.credit)  # Lightning's own look at some settings comes later
        keep_epochs_whole(self.trainer)
        named = [type(each) for each in typed(self.trainer).callbacks]
        return [RunFolder(self.trainer), *(kind() for kind in self.missing_callbacks(named))]

    @property
    def progress(self) -> float:
        """Share of the training that is done: 0 in its first epoch, 1 in its last, not a number where there is none."""
        last = (self.trainer.max_epochs or 0) - 1
        return min(1.0, self.iteration / max(1, last)) if last >= 0 else math.nan

    @property
    def iteration(self) -> int:
        """Number of epochs done: the epoch that is played and learnt from.

        ``Trainer.current_epoch`` lags behind while a resumed run asks for its first data.
        """
        trainer = trainer_of(self)
        return 0 if trainer is None else epochs_done(trainer)

    @property
    def rescores(self) -> bool:
        """Whether ratios are taken to the trainer's own log-probabilities."""
        return self.loss_settings.importance_correction is not None

    def configure_model(self) -> None:
        """Build the policy and, where a KL coefficient asks for one, its frozen reference; shard them if wanted.

        The reference of a policy with adapters is the policy without them.
        """
        if self._policy is not None:
            return
        trainer = trainer_of(self)
        strategy = None if trainer is None else trainer.strategy
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
        return {"optimizer": optimizer, "lr_scheduler": self.make_lr_scheduler(optimizer)}

    def on_train_start(self) -> None:
        """Make the learner of the optimizer and the scheduler that the Trainer has made."""
        self._learner = Learner(
            self,
            self.loss_settings,
            self.optimizers(),
            self.lr_schedulers(),
            scheduler_interval=self.lr_interval,
            max_grad_norm=self.max_grad_norm,
            ref_logprobs=self._ref_logprobs,
            execution=StrategyExecution(self),
        )

    def teardown(self, stage: str) -> None:
        """Let go of the learner, which holds the Trainer's optimizer."""
        self._learner = None

    def training_step(self, batch: Minibatch, batch_idx: int) -> dict[str, Any]:
        """Take one optimizer step, as ``Learner.update`` does; its terms are returned as well as logged.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite; this minibatch has changed no weight.
        """
        started = time.perf_counter()
        assert self._learner is not None
        try:
            with typed(self.trainer).profiler.profile("update"):
                losses = self._learner.update(batch, self.progress)
        except NotFiniteError as error:
            raise FloatingPointError(
                f"the {error.what} must be finite, got {error.value} in epoch {self.current_epoch}, minibatch "
                f"{batch_idx}, {error.rows}; updates of this epoch before it: {batch_idx}; no checkpoint was replaced. "
                f"Lower the learning rate or max_grad_norm, and {way_back(self.trainer)}"
            ) from error
        self._updated_epoch = self.current_epoch
        total = losses.pop("loss")
        named, rows = {f"loss/{name}": value for name, value in losses.items()}, batch.counts.num_rows
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=rows, sync_dist=True)
        self.log("policy_loss", losses["policy"], prog_bar=True, logger=False, sync_dist=True)
        self._token_counts += batch.token_counts
        self._update_seconds += time.perf_counter() - started
        return losses | {"loss": torch.tensor(total)}

    def on_train_epoch_start(self) -> None:
        """Give freed memory back before the rollout, start the clock of the update, and count its tokens anew."""
        give_memory_back()
        self._update_seconds, self._token_counts = 0.0, TokenCounts()
        self.policy.train()

    def on_train_epoch_end(self) -> None:
        """Step the scheduler, and log the update's time and tokens and the learning rate."""
        assert self._learner is not None
        self._learner.end_epoch(_watched(self.lr_schedulers(), self.trainer.callback_metrics))
        optimizer = cast("LightningOptimizer", self.optimizers())
        self.log("time/update", self._update_seconds, sync_dist=True)
        self.log_dict(self._token_counts.metrics(), sync_dist=True)  # of all ranks: each logs the same
        self.log("loss/learning_rate", float(optimizer.param_groups[0]["lr"]), sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Hand the held-out episodes on to the callbacks that count them."""
        return batch

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing: the episodes have been played, and the Transcripts callback writes them down."""

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The weights that are trained; the reference and frozen base weights are reloaded from their source.

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
        trainer = trainer_of(self)
        within_epoch = trainer is not None and self._updated_epoch == self.iteration
        checkpoint["gigpo"] = {
            "lr_interval": self.lr_interval,
            "within_epoch": within_epoch,  # a run cannot go on from here: the epoch's other updates would be lost
            "policy_version": self.policy_version,
            "iteration": self.iteration,
            "credit": storable(self.credit.state_dict(), type(self.credit).__name__),
            "random_states": gather(random_states()),  # only the first rank's dictionary is written
            "unlogged": {} if trainer is None else unlogged_metrics(trainer),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them, once all of the checkpoint has proved to be this run's.

        Raises:
            ValueError: If the checkpoint was not written by this module, holds another policy's weights, or cannot be
                gone on from.
        """
        kept = self.check_checkpoint(checkpoint)
        trainer = trainer_of(self)
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if trainer is not None and fitting:
            restore_random_states(kept["random_states"][self.global_rank % len(kept["random_states"])])
            log_again(trainer, kept["unlogged"])
        self.policy_version = kept["policy_version"]
        self.credit.load_state_dict(restored(kept["credit"]))
        path = trainer.ckpt_path if trainer is not None else None
        if path is not None and self.global_rank == 0:
            what = "going on from" if fitting else "playing with the policy of"
            done, step = kept["iteration"], checkpoint.get("global_step")
            _logger.info("%s %s: %s done, global step %s", what, path, count(done, "epoch"), step)

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Look at all of a checkpoint before any of it is taken; what this module keeps in it.

        Raises:
            ValueError: If this module did not write it, it holds another policy's weights, or it cannot be gone on
                from.
        """
        trainer = trainer_of(self)
        path = trainer.ckpt_path if trainer is not None else None
        rule = f"ckpt_path {str(path)!r} must name a checkpoint" if path else "ckpt_path must name a checkpoint"
        kept = check_kept(checkpoint, self.credit, rule)
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if fitting:
            check_place(kept, self.lr_interval, rule)
        if "state_dict" in checkpoint:  # a folder, in which each rank has a file, is loaded in place
            check_weights(checkpoint["state_dict"], self.state_dict(), rule)
            if fitting:
                num_parameters = sum(each.requires_grad for each in self.policy.parameters())
                check_training_state(checkpoint, num_parameters, self.make_lr_scheduler is not None, rule)
        return kept

    def _frozen(self) -> set[str]:
        """Names of the weights that are never trained, as ``state_dict`` has them."""
        named = self.named_parameters(remove_duplicate=False)
        return {name.replace(PREFIX, "") for name, weight in named if not weight.requires_grad}

    @torch.no_grad()
    def _ref_logprobs(self, tokens: TokenBatch, temperature: float) -> Tensor:
        """Log-probabilities of the frozen reference."""
        reference = self.reference or self.policy
        off = self.policy.without_adapters() if isinstance(self.policy, AdaptedPolicy) else contextlib.nullcontext()
        with off:
            ref_logprobs: Tensor = reference(tokens, temperature)[0]
        return ref_logprobs


def _watched(scheduler: Any, logged: Mapping[str, Tensor]) -> float | None:
    """The logged metric that ``lightning.pytorch.cli.ReduceLROnPlateau`` watches; None for other schedulers."""
    monitor = getattr(scheduler, "monitor", None)
    if monitor is None:
        return None
    if monitor not in logged:
        raise ValueError(
            f"lr_scheduler.init_args.monitor must be a metric that every epoch logs, got {monitor!r}; this one has "
            f"logged {', '.join(sorted(logged))}"
        )
    return float(logged[monitor])
