"""What is used of Lightning's insides is there, and does what it is used for."""

import signal

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from callbacks.lightning_internals import (
    begin_epoch_again,
    epochs_done,
    metrics_to_be_logged,
    show_length,
    take_over_sigterm,
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
