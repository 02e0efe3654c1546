"""What is used of Lightning's insides is there, and does what it is used for."""

import signal

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from callbacks.lightning_internals import (
    TypedTrainer,
    begin_epoch_again,
    choose_version,
    epochs_done,
    has_chosen_version,
    is_made_by_command_line,
    last_saved,
    metrics_to_be_logged,
    show_hparams,
    show_length,
    take_over_sigterm,
    trainer_of,
    typed,
    validation_interval,
)
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Watch(Callback):
    """Notes what a function says in some hooks."""

    def __init__(self, ask):
        self.ask, self.said = ask, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.said.append(("batch", self.ask(trainer)))

    def on_train_epoch_end(self, trainer, pl_module):
        self.said.append(("end", self.ask(trainer)))


def fit(folder, *callbacks, **options):
    module = tiny_module()
    trainer = quiet_trainer(folder, ScriptedSync(), *callbacks, **{"max_epochs": 2, "limit_val_batches": 0} | options)
    trainer.fit(module, walking_data(random_walk(module)))
    return trainer


def test_an_epoch_is_done_when_its_last_update_is(tmp_path):
    watch = Watch(epochs_done)
    fit(tmp_path, watch)
    assert watch.said == [("batch", 0), ("end", 1), ("batch", 1), ("end", 2)]


def test_an_epoch_that_is_forgotten_is_begun_again_with_its_hooks(tmp_path):
    begun = []

    class Leaving(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            begun.append(trainer.current_epoch)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if len(begun) == 2:
                begin_epoch_again(trainer)
                trainer.save_checkpoint(tmp_path / "left.ckpt")

    fit(tmp_path, Leaving())
    assert begun == [0, 1]
    module = tiny_module()
    trainer = quiet_trainer(tmp_path, ScriptedSync(), Leaving(), max_epochs=2, limit_val_batches=0)
    trainer.fit(module, walking_data(random_walk(module)), ckpt_path=tmp_path / "left.ckpt", weights_only=True)
    assert begun == [0, 1, 1]


def test_the_metrics_of_an_epoch_are_there_before_they_are_logged(tmp_path):
    watch = Watch(metrics_to_be_logged)
    fit(tmp_path, watch, max_epochs=1)
    (_, within), (_, (step, metrics)) = watch.said
    assert within is None
    assert step == 0
    assert "loss/policy" in metrics


def test_sigterm_reaches_the_handler_that_took_it_over(tmp_path):
    heard = []

    class Taking(Callback):
        def setup(self, trainer, pl_module, stage):
            take_over_sigterm(trainer, lambda number, frame: heard.append(number))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            signal.raise_signal(signal.SIGTERM)

    fit(tmp_path, Taking(), max_epochs=1)
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("bar", [TQDMProgressBar(), RichProgressBar()], ids=["tqdm", "rich"])
def test_the_progress_bar_knows_how_many_updates_an_epoch_has(tmp_path, bar):
    totals = []

    class Reading(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            shown = bar.train_progress_bar if isinstance(bar, TQDMProgressBar) else bar.train_progress_bar_id
            totals.append(shown.total if isinstance(bar, TQDMProgressBar) else bar.progress.tasks[shown].total)

    fit(tmp_path, bar, Reading(), enable_progress_bar=True)
    assert totals == [1, 1]


def test_without_a_progress_bar_there_is_nothing_to_tell(tmp_path):
    show_length(quiet_trainer(tmp_path), 3)


def test_a_trainer_has_the_attributes_that_its_class_does_not_declare(tmp_path):
    callback = Watch(epochs_done)
    trainer = quiet_trainer(tmp_path, callback, overfit_batches=3)
    assert isinstance(trainer, TypedTrainer)
    assert callback in typed(trainer).callbacks
    assert typed(trainer).overfit_batches == 3


def test_a_module_knows_its_trainer_and_can_be_asked_without_one(tmp_path):
    module = tiny_module()
    assert trainer_of(module) is None
    module.trainer = quiet_trainer(tmp_path)
    assert trainer_of(module) is module.trainer


@pytest.mark.parametrize(("given", "interval"), [(None, 1.0), (4, 4), ("00:00:01:30", 90.0)])
def test_an_interval_of_evaluations_is_a_share_a_number_or_a_time(tmp_path, given, interval):
    assert validation_interval(quiet_trainer(tmp_path, val_check_interval=given)) == interval


def test_the_path_of_the_last_checkpoint_is_known_once_it_is_written(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last="link")
    assert last_saved(checkpoint) == ""
    fit(tmp_path, checkpoint, max_epochs=1, enable_checkpointing=True)
    (written,) = (tmp_path / "kept").glob("epoch*.ckpt")
    assert last_saved(checkpoint) == str(written)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_logger_chooses_its_number_when_it_is_asked_or_told(tmp_path, kind):
    asked, told = kind(tmp_path), kind(tmp_path)
    assert not has_chosen_version(asked)
    assert asked.version == 0
    assert has_chosen_version(asked)
    choose_version(told, 7)
    assert told.version == 7


def test_the_settings_of_a_run_are_in_tensorboard_without_a_list_of_metrics(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    show_hparams(logger, {"seed": 3})
    logger.save()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    ((tag, content),) = events.PluginTagToContent("hparams").items()
    assert tag == metadata.SESSION_START_INFO_TAG
    assert metadata.parse_session_start_info_plugin_data(content).hparams["seed"].number_value == 3


def test_a_constructor_knows_whether_the_command_line_calls_it():
    made = []

    class Module(LightningModule):
        def __init__(self, size: int) -> None:
            made.append(is_made_by_command_line())
            super().__init__()

    Module(1)
    LightningCLI(Module, args=["--model.size", "1"], run=False, save_config_callback=None)
    assert made == [False, True]
