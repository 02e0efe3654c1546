"""The callback that keeps the episodes: in files, and a few to read in TensorBoard."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from gigpo_lightning.algorithm import Credit
from gigpo_lightning.rollout.record import HeldOutEpisodes, Rollout
from gigpo_lightning.rollout.store import write_trajectories
from gigpo_lightning.trajectory import StepTable, Trajectory, TrajectoryGroup
from modules import GiGPOModule

_logger = logging.getLogger(__name__)


class Transcripts(Callback):
    """Writes each epoch's episodes to ``trajectories/``, and a best and a worst held-out episode as text.

    Args:
        every_n_epochs: Write the rollouts of every n-th epoch; 0 writes none.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must be >= 0, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's rollout."""
        rollout = cast("Rollout | None", cast("Any", trainer).datamodule.last_rollout)
        due = self.every_n_epochs and rollout is not None and rollout.epoch % self.every_n_epochs == 0
        log_dir = trainer.log_dir
        if due and rollout is not None and log_dir is not None:
            groups, credit = rollout.groups, rollout.credit
            self._write(trainer, log_dir, pl_module, f"epoch_{rollout.epoch}", groups, credit, rollout.temperature)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Show the shortest success and the first failure."""
        if not isinstance(outputs, HeldOutEpisodes):
            return
        add_text = getattr(getattr(trainer.logger, "experiment", None), "add_text", None)
        if add_text is None:
            return  # this logger shows no text
        episodes = list(outputs.trajectories())
        won = sorted((e for e in episodes if e.success), key=lambda e: len(e.steps))
        lost = [e for e in episodes if not e.success]
        for name, chosen in (("success", won[:1]), ("failure", lost[:1])):
            for episode in chosen:
                add_text(f"held_out/{outputs.split}/{name}", transcript(episode), trainer.global_step)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write the played episodes, with the credit that their steps would have had.

        One episode of a task has none to be compared with: ``held_out_repeats`` says how many there are.
        """
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if isinstance(batch, HeldOutEpisodes) and batch.groups:  # of few tasks a rank may have none
            estimator = copy.deepcopy(cast("GiGPOModule", pl_module).credit)  # one that remembers must not learn of it
            credit = estimator.estimate(StepTable.from_groups(batch.groups))
            name = f"predict_{batch.split}"
            path = self._write(trainer, log_dir, pl_module, name, batch.groups, credit, batch.temperature)
            _logger.info("episodes written to %s", path)

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
        folder = Path(log_dir or trainer.default_root_dir) / "trajectories"
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = folder / f"{name}{rank}.parquet"
        prompt_text = cast("GiGPOModule", pl_module).policy.tokenizer.exact_text
        write_trajectories(path, groups, credit, temperature=temperature, prompt_text=prompt_text)
        return path


def transcript(episode: Trajectory) -> str:
    """An episode as Markdown, two paragraphs a turn; each observation in one line, or it would end the paragraph."""
    lines = [f"**{episode.task_id}** ({episode.kind}): {'success' if episode.success else 'failure'}"]
    for index, step in enumerate(episode.steps):
        mark = "" if step.valid_action else " (invalid)"
        lines += [f"({index}) {_one_line(step.observation)}", f"**> {_one_line(step.action)}**{mark}"]
    lines.append(f"({len(episode.steps)}) {_one_line(episode.final_observation)}")
    return "\n\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
