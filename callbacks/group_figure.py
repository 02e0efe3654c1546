"""The callback that draws which steps of a group earned credit."""

from lightning.pytorch import LightningModule, Trainer

from callbacks.showing import show_figure
from callbacks.watching import ExperienceCallback
from gigpo_lightning.errors import check_count
from gigpo_lightning.figures import credited_groups, draw_group, most_varied_group


class GroupFigure(ExperienceCallback):
    """Draws one group of an epoch's rollout, the one with most to compare, as rows of steps coloured by advantage.

    That is a group which won some episodes and lost some, before one that did not, and of these the one whose episodes
    share most states. Of several ranks it is one of the first rank's. Loggers that show figures get it, and the run's
    folder, which keeps the first and the latest in ``figures/rollout/group/``.

    Args:
        every_n_epochs: Draw a group of every n-th epoch; 0 draws none. A figure takes 0.15 s.

    Raises:
        ValueError: If ``every_n_epochs`` is negative.
    """

    def __init__(self, every_n_epochs: int = 10) -> None:
        check_count("every_n_epochs", every_n_epochs, 0)
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the epoch's group, if it is due."""
        experience = self.experience
        if experience is None or not self.every_n_epochs or experience.epoch % self.every_n_epochs:
            return
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero:
            groups = credited_groups(experience.played.groups, experience.credit)
            chosen = groups[most_varied_group(groups)]
            task, kind = chosen[0].trajectory.task_id, chosen[0].trajectory.kind
            title = f"epoch {experience.epoch}, {kind}: of {len(groups)} groups the one with most to compare\n{task}"
            show_figure(trainer, log_dir, "rollout/group", f"epoch_{experience.epoch}", draw_group(chosen, title))
