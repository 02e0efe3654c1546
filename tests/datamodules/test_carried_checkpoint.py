"""Groups that a checkpoint carries are begun again by the run that goes on from it."""

import dataclasses

import pytest
import torch
from lightning.pytorch import Callback

from gigpo_lightning.rollout import CarryOver
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


class Keeper(Callback):
    """Keeps what every epoch played and trained on, and saves a checkpoint after each."""

    def __init__(self, folder=None):
        self.folder, self.epochs, self.minibatches = folder, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.minibatches.append(plain([dataclasses.astuple(part) for part in batch.micro_batches]))

    def on_train_epoch_end(self, trainer, pl_module):
        rollout = trainer.datamodule.experience
        progress = rollout.played.progress
        counts = progress.total, progress.finished, progress.carried, progress.retried, progress.steps
        self.epochs.append((rollout.epoch, rollout.played.groups, counts, self.minibatches))
        self.minibatches = []

    def on_train_epoch_start(self, trainer, pl_module):
        if self.folder:
            trainer.save_checkpoint(self.folder / f"{pl_module.iteration}.ckpt")


def run(folder, *callbacks, epochs=5, workers=0, max_staleness=1, environment=None, ckpt_path=None, **trainer_options):
    module = tiny_module()
    data = walking_data(
        random_walk(module),
        carry_over=CarryOver(extra_groups=2, max_staleness=max_staleness),
        max_steps=12,
        minibatch_size=30,
        workers=workers,
        deterministic=True,
    )
    data.player.environment = environment or data.player.environment
    trainer = quiet_trainer(
        folder, ScriptedSync(), *callbacks, max_epochs=epochs, limit_val_batches=0, **trainer_options
    )
    try:
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    finally:
        weights = {name: tensor.clone() for name, tensor in module.policy.state_dict().items()}
    return trainer, weights


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def carried(checkpoint):
    """What a checkpoint carries on: tasks, and the epochs that began them."""
    return torch.load(checkpoint, weights_only=True)["RolloutDataModule"]["carried"]


@pytest.mark.slow
def test_a_run_that_goes_on_begins_the_carried_groups_again(tmp_path):
    first, rest = Keeper(), Keeper()
    trainer, _ = run(tmp_path, first, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    kept = carried(tmp_path / "kept.ckpt")
    assert kept
    assert {epoch for _, epoch in kept} <= {0, 1}
    run(tmp_path, rest, epochs=3, ckpt_path=tmp_path / "kept.ckpt")
    ((epoch, groups, _, _),) = rest.epochs
    assert epoch == 2
    assert {group.task_id for group in groups} >= {task_id for task_id, _ in kept}  # the oldest are waited for
    versions = {step.policy_version for group in groups for episode in group.trajectories for step in episode.steps}
    assert len(versions) == 1  # all of it is played anew


@pytest.mark.slow
def test_two_runs_that_go_on_from_one_checkpoint_are_equal(tmp_path):
    saving, one, other = Keeper(tmp_path), Keeper(), Keeper()
    run(tmp_path, saving, epochs=4)
    ends = [run(tmp_path, keeper, ckpt_path=tmp_path / "3.ckpt")[1] for keeper in (one, other)]
    assert one.epochs == other.epochs
    assert_equal(*ends)


@pytest.mark.slow
def test_saving_disturbs_nothing(tmp_path):
    plain, saving = Keeper(), Keeper(tmp_path)
    run(tmp_path, plain)
    run(tmp_path, saving)
    assert saving.epochs == plain.epochs


@pytest.mark.slow
def test_the_carried_groups_of_an_older_version_are_begun_anew_and_the_log_says_so(tmp_path, caplog):
    trainer, _ = run(tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    kept["RolloutDataModule"] = {"format": 1, "group_size": 4, "ranks": [{"begun": 2, "groups": [], "queue": []}]}
    torch.save(kept, tmp_path / "older.ckpt")
    rest = Keeper()
    run(tmp_path, rest, epochs=3, ckpt_path=tmp_path / "older.ckpt")
    (said,) = [record.message for record in caplog.records if "carried groups" in record.message]
    assert said.endswith("the next epoch begins new groups, of its own tasks, in their place")
    ((epoch, _, (total, *_), _),) = rest.epochs
    assert (epoch, total) == (2, 24)  # 4 groups and 2 beside them, all of them new
    caplog.clear()
    run(tmp_path, epochs=3, ckpt_path=tmp_path / "kept.ckpt")
    assert "carried groups" not in caplog.text


class Interrupted(Exception):
    """Somebody else needs the machine."""


class SavedWhenInterrupted(Callback):
    """Is interrupted in an epoch's rollout, or before its update, and saves what there is."""

    def __init__(self, path, epoch, where):
        self.path, self.epoch, self.where = path, epoch, where

    def setup(self, trainer, pl_module, stage):
        engine = trainer.datamodule.player.engine
        script, count = engine.script, [0]

        def breaking(request):
            if self.where == "rollout" and pl_module.iteration == self.epoch:
                count[0] += 1
                if count[0] > 40:
                    raise Interrupted
            return script(request)

        engine.script = breaking

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.where == "update" and pl_module.iteration == self.epoch:
            raise Interrupted

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("where", ["rollout", "update"])
@pytest.mark.slow
def test_a_run_that_is_interrupted_saves_what_the_epoch_began_with(tmp_path, where):
    saving, kept = Keeper(tmp_path), tmp_path / "interrupted.ckpt"
    with pytest.raises(Interrupted):
        run(tmp_path, saving, SavedWhenInterrupted(kept, 2, where))
    run(tmp_path, Keeper(), epochs=2)
    assert carried(kept) == carried(tmp_path / "2.ckpt")
    assert max(epoch for _, epoch in carried(kept)) == 1


@pytest.mark.slow
def test_another_split_is_refused_by_the_name_of_a_task(tmp_path):
    trainer, _ = run(tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    kept["RolloutDataModule"]["carried"][0] = ("somewhere else", 1)
    torch.save(kept, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="tasks that the checkpoint carries on, but lacks 'somewhere else'"):
        run(tmp_path, ckpt_path=tmp_path / "other.ckpt")


@pytest.mark.slow
def test_a_run_that_carries_nothing_saves_nothing_and_takes_any_checkpoint(tmp_path):
    trainer, _ = run(tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    module = tiny_module()
    data = walking_data(random_walk(module))
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=3, limit_val_batches=0)
    trainer.fit(module, data, ckpt_path=tmp_path / "kept.ckpt", weights_only=True)
    assert data.experience.played.progress.total == 16
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert "RolloutDataModule" not in torch.load(tmp_path / "plain.ckpt", weights_only=True)
