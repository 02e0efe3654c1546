"""The LightningModule that copies an expert, so that reinforcement learning starts with some successes."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from callbacks import HeldOutEvaluation, UpdateThreads
from callbacks.lightning_internals import keep_epochs_whole, trainer_of, typed
from gigpo_lightning.countdown import Countdown
from gigpo_lightning.disk import whole_folder
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.token_batch import TokenBatch
from modules.finite_weights import way_back
from modules.policy import PolicySource
from modules.policy_module import PolicyModule
from modules.rehearsal import Rehearsal, rehearse_policy
from modules.run_folder import RunFolder

_logger = logging.getLogger(__name__)
_LINES = 10  # that an epoch's updates have in the log, and more where they are slow
_SILENT = 30.0  # seconds


class BehaviourCloningModule(PolicyModule):
    """Maximises the likelihood of demonstrated replies, and writes the policy's folder at the end.

    Args:
        policy: Where the policy comes from.
        learning_rate: Peak learning rate of AdamW.
        warm_up_steps: Optimizer steps of linear warm-up; then the rate falls along a cosine to a tenth.
        weight_decay: Of AdamW.
        output_folder: Where the checkpoint goes that ``PretrainedPolicy`` loads; default: nowhere.

    Attributes:
        policy_version: Updates that have made the weights which an evaluation plays with.

    Raises:
        ValueError: If ``learning_rate`` is not positive, or another number is negative.
    """

    optimizer_arguments = ("learning_rate", "warm_up_steps", "weight_decay")
    """The arguments that a run which goes on takes from its checkpoint."""

    def __init__(
        self,
        policy: PolicySource,
        learning_rate: float = 1e-3,
        warm_up_steps: int = 50,
        weight_decay: float = 0.01,
        output_folder: str | None = None,
    ) -> None:
        super().__init__(policy)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be > 0 and finite, got {learning_rate}")
        check_count("warm_up_steps", warm_up_steps, 0)
        check_range("weight_decay", weight_decay)
        self.learning_rate = learning_rate
        self.warm_up_steps = warm_up_steps
        self.weight_decay = weight_decay
        self.output_folder = output_folder
        self.policy_version = 0
        self._first: int | None = None  # batch of the epoch that this process does; a run may go on within an epoch
        self._began, self._said = 0.0, math.inf
        self._countdown = Countdown("held-out loss: batch")

    @staticmethod
    def missing_callbacks(named: list[type]) -> list[type[Callback]]:
        """What counts held-out episodes, and what gives the update all cores, unless they are among some classes."""
        return [
            kind for kind in (HeldOutEvaluation, UpdateThreads) if not any(issubclass(each, kind) for each in named)
        ]

    @property
    def rescores(self) -> bool:
        """Never: nothing is compared with the policy that sampled."""
        return False

    def configure_callbacks(self) -> list[Callback]:
        """Claim the run's folder, and add the standard callbacks that the Trainer lacks; a subclass keeps both."""
        keep_epochs_whole(self.trainer)
        named = [type(each) for each in typed(self.trainer).callbacks]
        return [RunFolder(self.trainer), *(kind() for kind in self.missing_callbacks(named))]

    def configure_model(self) -> None:
        """Build the policy."""
        if self._policy is None:
            self._policy = self.policy_source.build()
            self._policy.train()  # Transformers loads for inference, without dropout
            self.strict_loading = all(weight.requires_grad for weight in self._policy.parameters())

    def rehearse(self, trainer: Any) -> Rehearsal:
        """Try out the policy without its weights, before anything is played.

        Raises:
            ValueError: If it cannot be made.
        """
        return rehearse_policy(self.policy_source)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and cosine."""
        trained = [each for each in self.policy.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, self.learning_rate, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warm_up = max(1, min(self.warm_up_steps, total - 1))
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm_up, total_iters=warm_up)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warm_up, self.learning_rate / 10)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm_up])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Begin to count the epoch's updates anew; not called where a run goes on within an epoch."""
        self._first = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the clock of the epoch's updates."""
        if self._first is None:
            self._first = batch_idx
            self._began = self._said = time.perf_counter()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the replies' tokens, in nats.

        Raises:
            FloatingPointError: If it is not finite; this batch has changed no weight.
        """
        logprobs = self._logprobs(batch)
        loss = -logprobs.sum() / batch.action_mask.sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss must be finite, got {loss.item()} in epoch {self.current_epoch}, batch {batch_idx}; no "
                f"checkpoint was replaced. Lower learning_rate, and {way_back(trainer_of(self))}"
            )
        self._updated_epoch = self.current_epoch
        self.log("cloning/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A few lines an epoch: how far it is, and how long the rest will take."""
        batches, done, now = int(self.trainer.num_training_batches), batch_idx + 1, time.perf_counter()
        if done % max(1, batches // _LINES) == 0 or now - self._said > _SILENT:
            self._said = now
            left = (now - self._began) / (done - (self._first or 0)) * (batches - done)
            text, loss = "epoch %d: batch %d of %d, loss %.3f, %.0f s left", float(outputs["loss"])
            _logger.info(text, self.current_epoch, done, batches, loss, left)

    def on_validation_start(self) -> None:
        """Number the weights by their updates, so that a player knows whether its engine has them."""
        self.policy_version = self.trainer.global_step

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Say how far a slow measurement of the loss is."""
        if isinstance(batch, TokenBatch):
            self._countdown.reach(float(batch_idx), int(self.trainer.num_val_batches[dataloader_idx]))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log the loss, and how likely a whole demonstrated row is; played episodes go on to what counts them."""
        if not isinstance(batch, TokenBatch):
            return batch
        logprobs = self._logprobs(batch)
        rows: dict[str, Any] = {"batch_size": len(batch.reply_ids), "add_dataloader_idx": False}
        self.log("cloning/held_out_loss", -logprobs.sum() / batch.action_mask.sum(), **rows)
        self.log("cloning/held_out_command_probability", logprobs.sum(1).exp().mean(), **rows)
        return None

    def on_validation_epoch_end(self) -> None:
        """Log the held-out loss in one line."""
        metrics = self.trainer.callback_metrics
        if not self.trainer.sanity_checking and "cloning/held_out_loss" in metrics:
            _logger.info(
                "epoch %d: held-out loss %.3f, command probability %.3f",
                self.current_epoch,
                metrics["cloning/held_out_loss"],
                metrics["cloning/held_out_command_probability"],
            )

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The weights that are trained: beside LoRA adapters the others are reloaded from their source."""
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        for name, weight in self.named_parameters(remove_duplicate=False):
            if not weight.requires_grad:
                state.pop(prefix + name, None)
        return state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep nothing more, and no weights that an update has ruined.

        Raises:
            FloatingPointError: If a weight is not finite; no checkpoint is replaced by it.
        """
        self.check_finite_weights()

    def on_fit_end(self) -> None:
        """Write the policy's folder, each of its files whole or as it was.

        Raises:
            FloatingPointError: If a weight is not finite.
            FullDiskError: If there is no room for it.
        """
        if self.output_folder is not None and self.trainer.is_global_zero:
            self.check_finite_weights()
            with whole_folder(Path(self.output_folder), keep_others=True) as unfinished:
                self.policy.save_pretrained(unfinished)
            _logger.info("policy written to %s", self.output_folder)

    def _logprobs(self, batch: TokenBatch) -> Float[Tensor, "S R"]:
        logprobs: Tensor = self.policy(batch.to(self.device))[0]
        return logprobs
