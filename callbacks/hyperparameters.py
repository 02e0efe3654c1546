"""How every logger gets a run's configuration as hyperparameters."""

from collections.abc import Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.lightning_internals import show_hparams
from gigpo_lightning.hyperparameters import Hyperparameter


def log_hyperparameters(trainer: Trainer, values: Mapping[str, Hyperparameter]) -> None:
    """Send hyperparameters to every logger; by the first rank alone."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(values), metrics={})  # for hparams.yaml; else it makes an hp_metric up
            show_hparams(logger, values)
        else:
            logger.log_hyperparams(dict(values))
