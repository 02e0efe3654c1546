"""The callback that arranges the scalars of a run in TensorBoard's Custom Scalars tab."""

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.watching import logger_methods
from gigpo_lightning.figures import scalar_layout


class TensorBoardLayout(Callback):
    """Writes, once a run, which scalars belong in one chart: the groups learning, credit, engine and time."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout where a logger has such a tab."""
        if trainer.is_global_zero:
            for add_custom_scalars in logger_methods(trainer.loggers, "add_custom_scalars"):
                add_custom_scalars(scalar_layout())
