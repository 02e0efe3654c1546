"""Lightning's own settings mean here what they say, or are refused before anything starts."""

import copy
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau

import callbacks
from callbacks import AnchorStats, HeldOutEvaluation, WeightSync
from gigpo_lightning.cli import build_cli
from gigpo_lightning.rollout import SamplingParameters, TransformersEngine
from tests.conftest import ROOT
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

GRIDWORLD = str(ROOT / "configs/gridworld_cpu.yaml")


class Keeper(Callback):
    """Keeps what every epoch played and trained on, and the learning rate of every update."""

    def __init__(self):
        self.tasks, self.rows, self.rates = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows += [int(row) for part in batch.micro_batches for row in part.row]
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, pl_module):
        self.tasks.append([group.task_id for group in trainer.datamodule.experience.played.groups])


def fit(folder, *others, module=None, data=None, ckpt_path=None, **options):
    module, keeper = module or tiny_module(), Keeper()
    trainer = quiet_trainer(
        folder, ScriptedSync(), keeper, *others, **{"max_epochs": 3, "limit_val_batches": 0} | options
    )
    trainer.fit(module, walking_data(random_walk(module), **(data or {})), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module, keeper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train_batches": 1}, r"trainer.limit_train_batches must be left out, got 1: .*tasks_per_epoch"),
        ({"limit_train_batches": 0.5}, r"trainer.limit_train_batches must be left out, got 0.5"),
        ({"max_steps": 3}, r"trainer.max_steps must be left out, got 3: .*use trainer.max_epochs"),
        ({"val_check_interval": 1}, r"trainer.val_check_interval must be left out, got 1: "),
        ({"val_check_interval": "00:00:00:10"}, r"trainer.val_check_interval must be left out, got "),
        ({"val_check_interval": 2}, r"trainer.val_check_interval must be left out, got 2: .*check_val_every_n_epoch"),
        ({"gradient_clip_val": 0.5}, r"trainer.gradient_clip_val must be left out, got 0.5: max_grad_norm"),
        ({"accumulate_grad_batches": 2}, r"trainer.accumulate_grad_batches must be left out, got 2: .*minibatch_size"),
        ({"overfit_batches": 0.5}, r"trainer.overfit_batches must be a number of tasks, got 0.5"),
    ],
)
def test_what_would_break_an_epoch_off_is_refused_before_anything_is_played(tmp_path, options, message):
    module = tiny_module()
    engine = random_walk(module)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, **options).fit(module, walking_data(engine))
    assert engine.requests == []


@pytest.mark.parametrize("name", ["every_n_train_steps", "train_time_interval"])
def test_checkpoints_between_two_updates_are_refused_when_they_are_configured(tmp_path, name):
    value = 2 if name == "every_n_train_steps" else timedelta(minutes=1)
    checkpoint = ModelCheckpoint(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"{name} of ModelCheckpoint must be left out, .*use every_n_epochs"):
        fit(tmp_path, checkpoint, enable_checkpointing=True)


@pytest.mark.slow
def test_a_checkpoint_of_lightning_s_own_is_written_when_its_epoch_is_over(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1)
    data = {"held_out_splits": ["valid_seen"]}
    options = {"check_val_every_n_epoch": 2, "limit_val_batches": 1.0, "enable_checkpointing": True, "data": data}
    fit(tmp_path, checkpoint, max_epochs=2, **options)
    kept = tmp_path / "kept" / "epoch=1.ckpt"
    _, module, keeper = fit(tmp_path, ckpt_path=kept, **options | {"enable_checkpointing": False})
    assert len(keeper.tasks) == 1
    assert module.policy_version == 3


def test_a_run_whose_time_is_over_ends_with_its_epoch(tmp_path):
    trainer, _, keeper = fit(tmp_path, data={"minibatch_size": 8}, max_time={"seconds": 0.001}, max_epochs=5)
    assert trainer.fit_loop.epoch_progress.current.processed == 1
    assert sorted(keeper.rows) == list(range(len(trainer.datamodule.experience.table)))


def test_a_checkpoint_that_was_written_between_two_updates_is_not_gone_on_from(tmp_path):
    class Hasty(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 1:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    fit(tmp_path, Hasty(), data={"minibatch_size": 16}, max_epochs=1)
    with pytest.raises(ValueError, match="from the end of an epoch; this one was written before its epoch was over"):
        fit(tmp_path, ckpt_path=tmp_path / "within.ckpt")


@pytest.mark.slow
def test_overfitting_plays_the_same_tasks_in_every_epoch_and_learns_from_all_steps(tmp_path):
    _, module, keeper = fit(tmp_path, overfit_batches=2, data={"minibatch_size": 8, "max_steps": 6})
    assert [sorted(tasks) for tasks in keeper.tasks] == [sorted(keeper.tasks[0])] * 3
    assert len(keeper.tasks[0]) == 2
    assert module.policy_version > 2 * 3  # Lightning alone would take two updates an epoch


@pytest.mark.slow
def test_one_batch_for_a_look_plays_and_updates_once(tmp_path):
    _, module, _ = fit(tmp_path, fast_dev_run=True, data={"minibatch_size": 8})
    assert module.policy_version == 1


@pytest.mark.slow
def test_a_scheduler_may_count_updates(tmp_path):
    module = tiny_module()
    module.make_lr_scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step + 1.0)
    module.lr_interval = "step"
    _, _, keeper = fit(tmp_path, module=module, data={"minibatch_size": 16}, max_epochs=2)
    first = keeper.rates[0]
    assert len(keeper.rates) > 4
    assert keeper.rates == pytest.approx([first * (number + 1) for number in range(len(keeper.rates))])


@pytest.mark.slow
def test_a_scheduler_counts_epochs_unless_it_is_told_otherwise(tmp_path):
    module = tiny_module()
    module.make_lr_scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step + 1.0)
    _, _, keeper = fit(tmp_path, module=module, data={"minibatch_size": 16}, max_epochs=2)
    assert len(set(keeper.rates)) == 2


@pytest.mark.slow
def test_a_scheduler_may_watch_a_metric(tmp_path):
    module = tiny_module()
    module.make_lr_scheduler = lambda optimizer: ReduceLROnPlateau(
        optimizer, monitor="rollout/return", mode="max", threshold=math.inf, patience=0, factor=0.5
    )
    _, _, keeper = fit(tmp_path, module=module)
    assert keeper.rates == pytest.approx([keeper.rates[0], keeper.rates[0], keeper.rates[0] / 2])  # none is better


def test_a_scheduler_that_watches_a_metric_cannot_count_updates(tmp_path):
    module = tiny_module()
    module.make_lr_scheduler = lambda optimizer: ReduceLROnPlateau(optimizer, monitor="rollout/return")
    module.lr_interval = "step"
    with pytest.raises(ValueError, match=r"lr_interval must be 'epoch' with ReduceLROnPlateau, got 'step'"):
        module.rehearse(quiet_trainer(tmp_path, max_epochs=1))


def test_a_run_does_not_go_on_with_a_scheduler_that_counts_something_else(tmp_path):
    trainer, _, _ = fit(tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    module = tiny_module()
    module.lr_interval = "step"
    with pytest.raises(ValueError, match="of a run with lr_interval 'step'; this one had 'epoch'"):
        fit(tmp_path, module=module, ckpt_path=tmp_path / "one.ckpt")


def test_a_module_that_was_trained_can_be_copied(tmp_path):
    _, module, _ = fit(tmp_path, max_epochs=1)
    assert copy.deepcopy(module).policy_version == module.policy_version


def test_a_metric_that_nobody_logs_is_named(tmp_path):
    module = tiny_module()
    module.make_lr_scheduler = lambda optimizer: ReduceLROnPlateau(optimizer, monitor="rollout/rewards")
    with pytest.raises(ValueError, match=r"monitor must be a metric that every epoch logs, got 'rollout/rewards'; .*"):
        fit(tmp_path, module=module)


@pytest.mark.slow
def test_the_progress_bar_shows_success_and_the_policys_loss(tmp_path):
    trainer, _, _ = fit(tmp_path)
    assert {"success", "policy_loss"} <= trainer.progress_bar_metrics.keys()


def test_a_training_step_returns_its_loss(tmp_path):
    returned = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            returned.append(outputs)

    fit(tmp_path, Watch(), max_epochs=1)
    assert returned
    assert {"loss", "policy", "gradient_norm"} <= returned[0].keys()


def test_the_profiler_sees_what_an_iteration_does(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0, profiler="simple")
    trainer.fit(tiny_module(), walking_data(TransformersEngine(), sampling=SamplingParameters(max_tokens=1)))
    assert {"rollout", "sync", "credit", "update"} <= trainer.profiler.recorded_durations.keys()


@pytest.mark.slow
def test_a_run_has_its_callbacks_without_naming_them(tmp_path):
    trainer, _, _ = fit(tmp_path)
    there = [type(callback) for callback in trainer.callbacks]
    assert {kind for kind in callbacks.STANDARD if there.count(kind) == 1} == {*callbacks.STANDARD} - {WeightSync}
    assert (tmp_path / "manifest.json").is_file()
    assert list((tmp_path / "trajectories").iterdir())


@pytest.mark.slow
def test_a_callback_that_is_named_is_the_only_one_of_its_kind(tmp_path):
    trainer, _, _ = fit(tmp_path, AnchorStats(enabled=False), HeldOutEvaluation(enabled=False), limit_val_batches=1.0)
    assert [type(each) for each in trainer.callbacks].count(AnchorStats) == 1
    assert not any(name.startswith(("anchors/", "held_out/")) for name in trainer.callback_metrics)


@pytest.mark.slow
def test_what_the_command_line_adds_stands_in_the_configuration():
    cli = build_cli(["fit", "--config", GRIDWORLD, "--dry_run"])
    added = [each.class_path for each in cli.config.fit.trainer.callbacks]
    assert {f"callbacks.{kind.__name__}" for kind in callbacks.STANDARD} <= set(added)
    assert added[-2:] == ["callbacks.Preemption", "lightning.pytorch.callbacks.ModelCheckpoint"]
    assert [each.class_path for each in cli.config.fit.trainer.plugins] == ["modules.AtomicCheckpointIO"]
    assert len(added) == len(set(added))


@pytest.mark.slow
def test_a_configuration_that_was_written_is_one_to_begin_from(tmp_path):
    cli = build_cli(["fit", "--config", GRIDWORLD, "--dry_run"])
    written = tmp_path / "config.yaml"
    text = cli._parser("fit").dump(cli.config.fit, skip_unset=False)
    written.write_text(yaml.safe_dump({key: value for key, value in yaml.safe_load(text).items() if key != "dry_run"}))
    again = build_cli(["fit", "--config", str(written), "--dry_run"])
    names = [[each.class_path for each in run.config.fit.trainer.callbacks] for run in (cli, again)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_without_checkpoints_none_is_added():
    cli = build_cli(["fit", "--config", GRIDWORLD, "--dry_run", "--trainer.enable_checkpointing", "false"])
    assert not any("ModelCheckpoint" in each.class_path for each in cli.config.fit.trainer.callbacks)


def test_a_file_names_a_standard_callback_only_to_set_it():
    standard = {f"callbacks.{kind.__name__}" for kind in callbacks.STANDARD}
    for path in sorted(Path(ROOT / "configs").rglob("*.yaml")):
        trainer = (yaml.safe_load(path.read_text()) or {}).get("trainer") or {}
        named = {each["class_path"]: each.get("init_args") for each in trainer.get("callbacks") or []}
        assert all(named[name] for name in named.keys() & standard), path
