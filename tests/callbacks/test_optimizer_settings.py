"""A run that goes on has its checkpoint's optimizer settings, or the present ones if it is asked to."""

import copy
import logging
import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch.optim import lr_scheduler as schedulers

from callbacks import OptimizerSettings
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

DONE, WHOLE = 3, 5  # epochs before and after the resumption


class Boring(BoringModel):
    """A linear layer with the optimizer and the scheduler of the test's."""

    def __init__(self, optimizer, scheduler=None, interval="epoch"):
        super().__init__()
        self.make_optimizer, self.make_scheduler, self.interval = optimizer, scheduler, interval
        self.rates = []

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self.make_scheduler(optimizer), "interval": self.interval}]

    def on_train_batch_start(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])


def adamw(**settings):
    return lambda parameters: torch.optim.AdamW(parameters, **settings)


def fit(folder, module: LightningModule, *callbacks, epochs=WHOLE, resumed=False):
    trainer = quiet_trainer(folder, *callbacks, max_epochs=epochs, limit_train_batches=2, limit_val_batches=0)
    trainer.fit(module, BoringDataModule(), ckpt_path=folder / "kept.ckpt" if resumed else None, weights_only=True)
    return trainer


@pytest.fixture
def stopped(tmp_path):
    """Trains the first epochs, and keeps their checkpoint."""

    def train(module: LightningModule):
        fit(tmp_path, module, epochs=DONE).save_checkpoint(tmp_path / "kept.ckpt")
        return tmp_path

    return train


def sequential(optimizer, warm_up, total):
    rise = schedulers.LinearLR(optimizer, 0.1, total_iters=warm_up)
    fall = schedulers.CosineAnnealingLR(optimizer, total, 1e-5)
    return schedulers.SequentialLR(optimizer, [rise, fall], milestones=[warm_up])


SCHEDULERS = {
    "none": (None, None),
    "lambda": (
        lambda optimizer: schedulers.LambdaLR(optimizer, lambda step: 0.5**step),
        lambda optimizer: schedulers.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    ),
    "step": (
        lambda optimizer: schedulers.StepLR(optimizer, 2, 0.1),
        lambda optimizer: schedulers.StepLR(optimizer, 1, 0.7),
    ),
    "cosine": (
        lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 4),
        lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 9, 1e-4),
    ),
    "sequential": (
        lambda optimizer: sequential(optimizer, 2, 5),
        lambda optimizer: sequential(optimizer, 3, 8),
    ),
    "another": (
        lambda optimizer: schedulers.StepLR(optimizer, 2, 0.1),
        lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 9, 1e-4),
    ),
}


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_new_schedule_goes_on_where_a_run_of_its_own_would_be(stopped, tmp_path, name, interval):
    before, after = SCHEDULERS[name]
    folder = stopped(Boring(adamw(lr=0.1), before, interval))
    alone, resumed = Boring(adamw(lr=0.02), after, interval), Boring(adamw(lr=0.02), after, interval)
    fit(tmp_path, alone)
    fit(folder, resumed, OptimizerSettings(), resumed=True)
    assert resumed.rates == alone.rates[2 * DONE :]
    assert len(resumed.rates) == 2 * (WHOLE - DONE)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("lambda", "another")])
def test_without_being_asked_the_old_schedule_goes_on(stopped, tmp_path, name):
    before, after = SCHEDULERS[name]
    folder = stopped(Boring(adamw(lr=0.1), before))
    alone, resumed = Boring(adamw(lr=0.1), before), Boring(adamw(lr=0.02), after)
    fit(tmp_path, alone)
    fit(folder, resumed, OptimizerSettings("checkpoint"), resumed=True)
    assert resumed.rates == alone.rates[2 * DONE :]


def test_every_setting_is_replaced_and_the_moments_stay(stopped):
    folder = stopped(Boring(adamw(lr=0.1, weight_decay=0.3)))
    kept = torch.load(folder / "kept.ckpt", weights_only=True)["optimizer_states"][0]

    class Look(OptimizerSettings):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            self.seen = copy.deepcopy(trainer.optimizers[0].state_dict())

    look = Look()
    fit(folder, Boring(adamw(lr=0.02, weight_decay=0.0, betas=(0.5, 0.6))), look, epochs=DONE + 1, resumed=True)
    group = look.seen["param_groups"][0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.02, 0.0, (0.5, 0.6))
    assert group["params"] == kept["param_groups"][0]["params"]
    for number, remembered in kept["state"].items():
        assert all(torch.equal(look.seen["state"][number][name], remembered[name]) for name in remembered)


def lines(caplog) -> list[str]:
    return [line for line in caplog.messages if line.startswith("optimizer, group")]


def test_what_differs_is_said_once_for_each_setting(stopped, caplog):
    caplog.set_level(logging.INFO)
    folder = stopped(Boring(adamw(lr=0.1), SCHEDULERS["step"][0]))
    fit(folder, Boring(adamw(lr=0.1), SCHEDULERS["step"][0]), OptimizerSettings(), resumed=True)
    assert lines(caplog) == []  # a scheduled rate is not what it started from
    later = Boring(adamw(lr=0.02, eps=1e-6), SCHEDULERS["step"][0])
    fit(folder, later, OptimizerSettings("checkpoint"), resumed=True)
    said = "optimizer, group 0: {0} was {1} in the checkpoint and is {2} in the configuration; {1} is used"
    assert sorted(lines(caplog)) == [said.format("eps", 1e-8, 1e-6), said.format("lr", 0.1, 0.02)]


def test_a_new_run_is_left_as_it_is(tmp_path):
    module = Boring(adamw(lr=0.02))
    fit(tmp_path, module, OptimizerSettings(), epochs=1)
    assert module.rates == [0.02, 0.02]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1), "of a run with this optimizer, SGD; its one has no"),
        (adamw(lr=0.1, amsgrad=True), "amsgrad of AdamW must be the checkpoint's, False, got True"),
    ],
)
def test_settings_that_the_kept_state_cannot_serve_are_refused(stopped, optimizer, message):
    folder = stopped(Boring(adamw(lr=0.1)))
    with pytest.raises(ValueError, match=message):
        fit(folder, Boring(optimizer), OptimizerSettings(), resumed=True)


def test_a_schedule_whose_steps_nobody_counts_is_refused(stopped):
    def chained(optimizer):
        return schedulers.ChainedScheduler([schedulers.StepLR(optimizer, 1)])

    folder = stopped(Boring(adamw(lr=0.1), chained))
    with pytest.raises(ValueError, match="needs a scheduler that counts its steps, got ChainedScheduler"):
        fit(folder, Boring(adamw(lr=0.1), chained), OptimizerSettings(), resumed=True)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="source must be 'checkpoint' or 'config', got 'mine'"):
        OptimizerSettings("mine")


@pytest.mark.slow
def test_gigpo_s_rate_is_the_new_schedule_s(tmp_path):
    class Rates(ScriptedSync):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.rates = [*getattr(self, "rates", []), trainer.optimizers[0].param_groups[0]["lr"]]

    def train(rate, epochs, **options):
        module = tiny_module()
        module.make_optimizer = adamw(lr=rate)
        module.make_lr_scheduler = SCHEDULERS["cosine"][1]
        trainer = quiet_trainer(tmp_path, sync := Rates(), OptimizerSettings(), max_epochs=epochs, limit_val_batches=0)
        trainer.fit(module, walking_data(random_walk(module)), weights_only=True, **options)
        return trainer, sync.rates

    trainer, _ = train(0.1, 2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    _, rates = train(0.02, 3, ckpt_path=tmp_path / "kept.ckpt")
    assert rates == [pytest.approx(1e-4 + (0.02 - 1e-4) * (1 + math.cos(math.pi * 2 / 9)) / 2)]
