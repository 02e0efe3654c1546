"""The callback that logs what the rollouts did and how long each part of an iteration took."""

import contextlib
import logging
import time
from typing import Any

import psutil
from lightning.pytorch import LightningModule, Trainer

from callbacks.watching import ExperienceCallback, show_first
from gigpo_lightning.rollout.diagnosis import Diagnosis
from gigpo_lightning.text import as_rate

_logger = logging.getLogger(__name__)


class RolloutMetrics(ExperienceCallback):
    """Logs ``rollout/*``, ``time/*`` and ``memory/*`` of each epoch, and says in one line how it went.

    What the figures show of why nothing is learnt is a warning, each reason once in a run.
    """

    _last_end = 0.0

    def __init__(self) -> None:
        self._diagnosis = Diagnosis()

    def state_dict(self) -> dict[str, Any]:
        """The reasons that were given, so that a run that goes on does not give them again."""
        return self._diagnosis.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the reasons that were given."""
        self._diagnosis.load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first iteration."""
        self._last_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's rollout."""
        if self.experience is None:
            return
        now = time.perf_counter()
        replies = self.experience.replies()
        metrics = self.experience.metrics(replies)
        metrics |= {"time/iteration": now - self._last_end, "memory/resident_gib": resident_gib()}
        self._last_end = now
        pl_module.log_dict(metrics, sync_dist=True)
        show_first(trainer, "training", metrics["rollout/success_rate"])
        pl_module.log("success", metrics["rollout/success_rate"], prog_bar=True, logger=False, sync_dist=True)
        _logger.info(
            "epoch %d: success %s, return %.2f, length %.1f, invalid %s%s, replies of %.1f tokens, %.1f s",
            self.experience.epoch,
            as_rate(metrics["rollout/success_rate"], 2),
            metrics["rollout/return"],
            metrics["rollout/episode_length"],
            as_rate(metrics["rollout/invalid_action_rate"], 2),
            f" ({replies.commonest_problem[0]})" if replies.problems else "",
            metrics["rollout/reply_length_mean"],
            metrics["time/iteration"],
        )
        if trainer.is_global_zero:
            for reason in self._diagnosis.reasons(replies, metrics):
                _logger.warning("epoch %d: %s", self.experience.epoch, reason)


def resident_gib() -> float:
    """Memory of this process and its environment workers that is in RAM, shared pages counted in each, in GiB."""
    process = psutil.Process()
    resident = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker may end while it is asked
            resident += each.memory_info().rss
    return resident / (1 << 30)
