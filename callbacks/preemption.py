"""The callback that ends a run in good order when a scheduler wants the machine back."""

import logging
from pathlib import Path

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.lightning_internals import begin_epoch_again, epochs_done, last_saved, take_over_sigterm, typed
from gigpo_lightning.errors import Preempted, StoppedBySignal
from gigpo_lightning.ranks import gather
from gigpo_lightning.text import count

_logger = logging.getLogger(__name__)


class Preemption(Callback):
    """On SIGTERM, stops a fit between two updates, writes a checkpoint, and ends the process with exit code 143.

    A rollout under way is dropped; an update or an evaluation under way is finished with its epoch. The checkpoint
    is that of the last epoch's end, so that a run which goes on from it is the one that was not stopped. Other
    subcommands have nothing to keep, and end at once. Ctrl-C ends a fit at once, and says from where it can go on.

    Differs from Lightning, which stops between two updates of one epoch, and whose handler waits for the other
    processes.

    Args:
        file_name: Name of the checkpoint, beside the run's others.
    """

    def __init__(self, file_name: str = "preempted.ckpt") -> None:
        self.file_name = file_name
        self.asked = False
        self._is_asked = False  # by rollouts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take SIGTERM over from Lightning."""
        self.asked = self._is_asked = False
        take_over_sigterm(trainer, lambda number, frame: self._stop(trainer, number))

    def should_stop(self) -> bool:
        """Whether a rollout under way is to be dropped; a DataModule that plays asks before and during each."""
        self._is_asked = True
        return self.asked

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where there is no rollout to be dropped.

        Raises:
            Preempted: If a rank was asked to stop.
        """
        if not self._is_asked and any(gather(self.asked)):
            raise Preempted(f"epoch {trainer.current_epoch} was not begun")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the checkpoint, and say how to go on; Ctrl-C leaves the checkpoints that are there."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == TrainerFn.FITTING:
            _say_what_is_kept(trainer)
        if not isinstance(exception, Preempted) or typed(trainer).fast_dev_run:
            return
        begin_epoch_again(trainer)
        path = _checkpoints(trainer) / self.file_name
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            done = count(epochs_done(trainer), "epoch")
            _logger.info("stopped by SIGTERM, %s done; go on with --ckpt_path last, or %s", done, path)
        elif isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment):
            exception.exit_code = 0  # Lightning kills the first rank when one that it started fails

    def _stop(self, trainer: Trainer, number: int) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            raise StoppedBySignal(Preempted.exit_code)
        if not self.asked:
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(number)
            _logger.info("SIGTERM: the rollout is dropped, or else the epoch finished; then the run stops")
        self.asked = True


def _say_what_is_kept(trainer: Trainer) -> None:
    """Where a run can go on that is stopped by Ctrl-C, in the middle of an epoch."""
    if not trainer.is_global_zero:
        return
    written = [last_saved(each) for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    if path := next(filter(None, written), None):
        done = epochs_done(trainer)
        way = f"{done} epoch{'s' * (done != 1)} done; go on with --ckpt_path last, or {path}"
    elif trainer.ckpt_path is not None:
        way = f"nothing new was kept yet; go on with --ckpt_path {trainer.ckpt_path} once more"
    else:
        way = "nothing was kept yet: the first checkpoint is written when an epoch is over"
    _logger.info("stopped by Ctrl-C, %s", way)


def _checkpoints(trainer: Trainer) -> Path:
    """Where the run's checkpoints are."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
