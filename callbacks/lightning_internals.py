"""Every use of Lightning's private parts; each function has a separate test."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.callbacks.timer import Interval
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.profilers import Profiler


@runtime_checkable
class TypedTrainer(Protocol):
    """What every Trainer has, and no type checker sees: it is set from outside the class."""

    callbacks: list[Callback]
    datamodule: LightningDataModule | None
    profiler: Profiler
    fast_dev_run: bool | int
    overfit_batches: float
    limit_train_batches: float


def typed(trainer: Trainer) -> TypedTrainer:
    """The same Trainer, by the attributes that its class does not declare."""
    return cast("TypedTrainer", trainer)


def trainer_of(module: LightningModule) -> Trainer | None:
    """The Trainer that a module is attached to, if there is one; ``LightningModule.trainer`` raises instead."""
    return module._trainer


def epochs_done(trainer: Trainer) -> int:
    """Number of epochs that are over, and so the number of the one that is played and learnt from.

    ``Trainer.current_epoch`` is behind by one in a run that goes on from an epoch's end, until its first hook.
    """
    return int(_progress(trainer).current.processed)


def batches_done(trainer: Trainer) -> int:
    """Number of an epoch's batches that were over when the run stopped in it, as the next one is asked for; else 0."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def begin_epoch_again(trainer: Trainer) -> None:
    """Forget that an epoch was begun: a checkpoint written now goes on with its start, hooks and all."""
    for each in (_progress(trainer).total, _progress(trainer).current):
        each.ready = each.started = each.processed


def take_over_sigterm(trainer: Trainer, handler: Callable[..., None]) -> None:
    """Have a handler of ours answer SIGTERM; Lightning registers it after the last hook before the first rollout."""
    connector: Any = trainer._signal_connector
    connector._sigterm_notifier_fn = handler


def metrics_to_be_logged(trainer: Trainer) -> tuple[int, dict[str, float]] | None:
    """The step and the metrics of an epoch whose checkpoint is written before they are logged; every rank must ask."""
    current = _progress(trainer).current
    results = trainer._results if trainer.training else None
    if not results or current.processed == current.completed:
        return None
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
    return step, {name: float(value) for name, value in results.metrics(False)["log"].items()}


def keep_epochs_whole(trainer: Trainer) -> None:
    """Have checkpoints be written, and ``max_time`` be looked at, when an epoch is over, where nobody has said when.

    Lightning writes them at the end of an evaluation, before it counts the epoch, and stops between two updates.
    """
    for callback in typed(trainer).callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = True
        if isinstance(callback, Timer):
            callback._interval = Interval.epoch


def settings_within_epochs(callback: ModelCheckpoint) -> dict[str, object]:
    """The settings by which a callback writes checkpoints that no run could go on from, and their values."""
    given = {name: getattr(callback, f"_{name}") for name in ("every_n_train_steps", "train_time_interval")}
    at_end = callback._save_on_train_epoch_end
    early = {name: value for name, value in given.items() if value}
    return early | ({} if at_end is not False else {"save_on_train_epoch_end": at_end})


def validation_interval(trainer: Trainer) -> object:
    """How often an epoch is interrupted by an evaluation: a share or number of batches, or a time; 1.0 for never."""
    return getattr(trainer, "_val_check_time_interval", None) or trainer.val_check_interval


def last_saved(callback: ModelCheckpoint) -> str:
    """The path of the checkpoint that a callback has written last in this run; empty if there is none."""
    return callback._last_checkpoint_saved


def has_chosen_version(logger: CSVLogger | TensorBoardLogger) -> bool:
    """Whether the number of a logger's folder is known; to ask for ``version`` would choose one."""
    return logger._version is not None


def choose_version(logger: CSVLogger | TensorBoardLogger, version: int | str | None) -> None:
    """Have a logger write into the folder of this number."""
    logger._version = version


def show_length(trainer: Trainer, num_batches: int) -> None:
    """Tell the progress bar how many updates the epoch has, which is known once its episodes have been played."""
    for bar in typed(trainer).callbacks:
        if isinstance(bar, TQDMProgressBar) and bar.is_enabled and bar._train_progress_bar is not None:
            bar._train_progress_bar.total = num_batches
        if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.train_progress_bar_id is not None:
            assert bar.progress is not None
            bar.progress.update(bar.train_progress_bar_id, total=num_batches)


def show_hparams(logger: TensorBoardLogger, values: Mapping[str, bool | int | float | str]) -> None:
    """Fill TensorBoard's HPARAMS tab with a run's settings alone.

    PyTorch also writes which settings and metrics there are, and that the run has succeeded. The tab would take the
    first run's list for all runs; without a list it shows what any run has, and first the settings that differ.
    """
    from torch.utils.tensorboard import summary  # imports TensorBoard

    _, start, _ = summary.hparams(dict(values), {})  # type: ignore[no-untyped-call]
    logger.experiment._get_file_writer().add_summary(start)


def is_made_by_command_line() -> bool:
    """Whether a constructor is being called by LightningCLI, which knows the configuration that it was made of."""
    return _given_hyperparameters.get() is not None


def _progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_progress
