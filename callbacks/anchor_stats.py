"""The callback that says how much the anchor groups have to compare."""

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer


class AnchorStats(Callback):
    """Logs the anchor groups of each epoch's rollout under ``anchors/``: what the step level had to work with.

    Many singletons mean that few steps were compared with another; a small step-to-episode ratio means that the step
    level hardly moves the advantage. Of several ranks it is the mean, each counted alike.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the credit's own metrics."""
        rollout = cast("Any", trainer).datamodule.last_rollout
        if rollout is not None:
            pl_module.log_dict(rollout.credit.metrics, sync_dist=True)
