"""The callback that keeps the episodes: in files, and a few to read."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.lightning_internals import typed
from callbacks.showing import show_transcripts
from callbacks.watching import ExperienceCallback
from gigpo_lightning.algorithm import Credit, CreditEstimator
from gigpo_lightning.errors import check_count
from gigpo_lightning.experience import scored_table
from gigpo_lightning.figures import CreditedEpisode, best_median_worst, credited_groups, transcript
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.rollout.player import HeldOutGroups
from gigpo_lightning.rollout.store import write_trajectories
from gigpo_lightning.trajectory import TrajectoryGroup

_logger = logging.getLogger(__name__)


class Transcripts(ExperienceCallback):
    """Writes each epoch's episodes to ``trajectories/``, and a best, a median and a worst one as text to read.

    The texts are of the rollouts (``rollout/best`` and so on) and of every evaluation (``held_out/<split>/best``); of
    several ranks they are the first rank's. Each step has its action and whether that was valid, and what it was worth.
    A held-out task that is played once has no credit, and the text says so; ``held_out_repeats`` of two or more give it
    some. Loggers that show text or tables get them, and the run's folder, which keeps the first and the latest of each
    in ``transcripts/``.

    Args:
        every_n_epochs: Write the rollouts of every n-th epoch; 0 writes none.
        text_every_n_epochs: Show texts of every n-th epoch's rollout; 0 shows none. Evaluations are always shown.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(self, every_n_epochs: int = 1, text_every_n_epochs: int = 10) -> None:
        check_count("every_n_epochs", every_n_epochs, 0)
        check_count("text_every_n_epochs", text_every_n_epochs, 0)
        self.every_n_epochs = every_n_epochs
        self.text_every_n_epochs = text_every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's rollout, and show some of it."""
        experience = self.experience
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if experience is None:
            return
        epoch, played, credit = experience.epoch, experience.played, experience.credit
        due = self.every_n_epochs and epoch % self.every_n_epochs == 0
        if due and log_dir is not None:
            self._write(trainer, log_dir, pl_module, f"epoch_{epoch}", played.groups, credit, experience.temperature)
        if self.text_every_n_epochs and epoch % self.text_every_n_epochs == 0:
            self._show(trainer, pl_module, log_dir, "rollout", f"epoch_{epoch}", played.groups, credit)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Show some of the held-out episodes."""
        if not isinstance(outputs, HeldOutGroups):
            return
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero:
            compared = any(len(group.trajectories) > 1 for group in outputs.groups)
            credit = _credit(trainer, pl_module, outputs.groups) if compared else None
            moment = f"version_{outputs.policy_version}"
            self._show(trainer, pl_module, log_dir, f"held_out/{outputs.split}", moment, outputs.groups, credit)

    on_test_batch_end = on_validation_batch_end

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write the played episodes, with the credit that their steps would have had beside a task's other episodes."""
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if isinstance(batch, HeldOutGroups) and batch.groups:  # of few tasks a rank may have none
            credit = _credit(trainer, pl_module, batch.groups)
            name = f"predict_{batch.split}"
            path = self._write(trainer, log_dir, pl_module, name, batch.groups, credit, batch.temperature)
            _logger.info("episodes written to %s", path)

    def _show(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        log_dir: str | None,
        tag: str,
        moment: str,
        groups: Sequence[TrajectoryGroup],
        credit: Credit | None,
    ) -> None:
        """A best, a median and a worst episode as text; with credit, unless it has no other to be compared with."""
        if not trainer.is_global_zero:
            return
        episodes = [episode for group in groups for episode in group.trajectories]
        worths: list[CreditedEpisode | None] = [None] * len(episodes)
        if credit is not None:
            credited = credited_groups(groups, credit)
            worths = [each if len(group) > 1 else None for group in credited for each in group]
        as_text = cast("PolicyView", pl_module).tokenizer.exact_text
        texts = {}
        for name, number in best_median_worst(episodes).items():
            prompt = as_text(episodes[number].steps[0].prompt_ids)
            texts[name] = transcript(episodes[number], worths[number], prompt)
        show_transcripts(trainer, log_dir, tag, moment, texts)

    def _write(
        self,
        trainer: Trainer,
        log_dir: str | None,
        pl_module: LightningModule,
        name: str,
        groups: Sequence[TrajectoryGroup],
        credit: Credit,
        temperature: float,
    ) -> Path:
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(log_dir or trainer.default_root_dir) / "trajectories" / f"{name}{rank}.parquet"
        prompt_text = cast("PolicyView", pl_module).tokenizer.exact_text
        epoch = None if self.experience is None else self.experience.epoch
        write_trajectories(path, groups, credit, temperature=temperature, prompt_text=prompt_text, epoch=epoch)
        return path


def _credit(trainer: Trainer, pl_module: LightningModule, groups: Sequence[TrajectoryGroup]) -> Credit:
    """What the module's estimator says of episodes that it is not to learn of: one that remembers is copied."""
    estimator = copy.deepcopy(cast("CreditEstimator", pl_module.credit))
    return estimator.estimate(scored_table(groups, getattr(typed(trainer).datamodule, "scorers", ())))
