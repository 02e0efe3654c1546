"""The callback that logs the sizes of anchor groups and the credit of their steps."""

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from callbacks.watching import ExperienceCallback, logger_methods
from gigpo_lightning.errors import check_count
from gigpo_lightning.figures import anchor_group_sizes, group_size_shares
from gigpo_lightning.ranks import gather


class AnchorStats(ExperienceCallback):
    """Logs the anchor groups of each epoch's rollout under ``anchors/``: what the step level had to work with.

    Many singletons mean that few steps were compared with another; a small step-to-episode ratio means that the step
    level hardly moves the advantage. ``anchors/group_size_share/<size>`` is the share of the steps whose group has 1,
    2-5, 6-10, 11-50 or over 50 steps. Of several ranks each is the mean, each rank counted alike.

    Under ``credit/`` there are histograms: of the sizes of anchor groups, one value a group, and of A_E and A_S, one
    value a step, as the update sees them; of several ranks of all their groups and steps.

    Args:
        histograms_every_n_epochs: Log the histograms of every n-th epoch; 0 logs none.
        enabled: Log anything at all.

    Raises:
        ValueError: If ``histograms_every_n_epochs`` is negative.
    """

    def __init__(self, histograms_every_n_epochs: int = 1, enabled: bool = True) -> None:
        check_count("histograms_every_n_epochs", histograms_every_n_epochs, 0)
        self.histograms_every_n_epochs = histograms_every_n_epochs
        self.enabled = enabled

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the credit's own metrics, the shares of sizes, and the histograms where they are due."""
        if self.experience is None or not self.enabled:
            return
        credit = self.experience.credit
        pl_module.log_dict(credit.metrics | group_size_shares(credit.step_group_id), sync_dist=True)
        if not self.histograms_every_n_epochs or self.experience.epoch % self.histograms_every_n_epochs:
            return
        ours = {
            "credit/anchor_group_size": anchor_group_sizes(credit.step_group_id),
            "credit/episode_advantage": credit.episode_advantage,
            "credit/step_advantage": credit.step_advantage,
        }
        by_rank = gather(ours)  # asked on every rank
        if trainer.is_global_zero:
            for add_histogram in logger_methods(trainer.loggers, "add_histogram"):
                for name in ours:
                    add_histogram(name, np.concatenate([each[name] for each in by_rank]), trainer.global_step)
