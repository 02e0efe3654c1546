"""How every logger gets a run's configuration as hyperparameters."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.lightning_internals import show_hparams, typed
from gigpo_lightning.hyperparameters import Hyperparameter


def log_hyperparameters(trainer: Trainer, values: Mapping[str, Hyperparameter]) -> None:
    """Send hyperparameters to every logger; by the first rank alone.

    In TensorBoard's HPARAMS tab the run's success rates stand beside them. Lightning would log a first value of each
    such metric, and without one an ``hp_metric`` of -1; here the tab finds what the run itself logs.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(values), metrics={})  # for hparams.yaml
            show_hparams(logger, values, _metrics(trainer))
        else:
            logger.log_hyperparams(dict(values))


def _metrics(trainer: Trainer) -> Sequence[str]:
    """Names of the metrics that a run of a policy is judged by; none where nothing is played."""
    data = typed(trainer).datamodule
    splits = getattr(data, "test_splits" if trainer.testing else "held_out_splits", ())
    played = ["rollout/success_rate"] if trainer.training and hasattr(data, "player") else []
    return [*(f"held_out/{split}/success_rate" for split in splits), *played]
