"""SIGTERM stops a fit between two epochs, with a checkpoint from which exactly the rest is trained."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from callbacks import Preemption
from gigpo_lightning.errors import Preempted
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Terminate(Callback):
    """Sends SIGTERM in an epoch's update."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class Epochs(Callback):
    """Counts the updates of every epoch, and notes which were begun as an epoch should."""

    def __init__(self):
        self.updates = {}
        self.begun = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.begun.append(trainer.current_epoch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.updates[trainer.current_epoch] = self.updates.get(trainer.current_epoch, 0) + 1


def episodes():
    module = tiny_module()
    return module, walking_data(random_walk(module), minibatch_size=16)


def plain():
    return BoringModel(), BoringDataModule()


@pytest.mark.parametrize("make", [episodes, plain])
@pytest.mark.slow
def test_the_epoch_is_finished_and_exactly_the_others_are_trained_later(tmp_path, make):
    def fit(*callbacks, **options):
        counter = Epochs()
        module, data = make()
        trainer = quiet_trainer(
            tmp_path,
            *([ScriptedSync()] if make is episodes else []),
            Preemption(),
            counter,
            *callbacks,
            max_epochs=5,
            limit_val_batches=0,
        )
        trainer.fit(module, data, **options)
        return counter

    whole = fit()
    assert sorted(whole.updates) == [0, 1, 2, 3, 4]
    with pytest.raises(Preempted) as stop:
        fit(Terminate(2))
    assert stop.value.exit_code == 143
    checkpoint = tmp_path / "checkpoints" / "preempted.ckpt"
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["global_step"] == sum(whole.updates[epoch] for epoch in (0, 1, 2))
    resumed = fit(ckpt_path=checkpoint)
    assert resumed.updates == {epoch: whole.updates[epoch] for epoch in (3, 4)}
    assert resumed.begun == [3, 4]


@pytest.mark.slow
def test_afterwards_the_signal_is_the_system_s_again(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    module, data = episodes()
    quiet_trainer(tmp_path, ScriptedSync(), Preemption(), max_epochs=1, limit_val_batches=0).fit(module, data)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_trial_run_leaves_no_checkpoint(tmp_path):
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            raise Preempted("as if")

    module, data = episodes()
    with pytest.raises(Preempted):
        quiet_trainer(tmp_path, ScriptedSync(), Preemption(), Stop(), fast_dev_run=True).fit(module, data)
    assert list(tmp_path.rglob("*.ckpt")) == []


class Interrupt(Callback):
    """Is Ctrl-C at the start of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        (0, "stopped by Ctrl-C, nothing was kept yet: the first checkpoint is written when an epoch is over"),
        (2, "stopped by Ctrl-C, 2 epochs done; go on with --ckpt_path last, or {}/checkpoints/epoch=1"),
    ],
)
def test_ctrl_c_says_from_where_the_run_can_go_on(tmp_path, caplog, epoch, said):
    caplog.set_level("INFO")
    module, data = plain()
    keep = ModelCheckpoint(save_on_train_epoch_end=True)
    callbacks = (keep, Preemption(), Interrupt(epoch))
    options = {"max_epochs": 3, "limit_train_batches": 1, "limit_val_batches": 0, "enable_checkpointing": True}
    trainer = quiet_trainer(tmp_path, *callbacks, **options)
    with pytest.raises(SystemExit):
        trainer.fit(module, data)
    assert [line.startswith(said.format(tmp_path)) for line in caplog.messages if "Ctrl-C" in line] == [True]
