"""A run that goes on from a checkpoint with carried episodes equals, to the last bit, one that was never stopped."""

import dataclasses
import random

import pytest
import torch
from lightning.pytorch import Callback

from gigpo_lightning.environments.gridworld import GridworldEnvironment
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
        rollout = trainer.datamodule.last_rollout
        progress = rollout.progress
        counts = progress.total, progress.finished, progress.carried, progress.retried, progress.steps
        self.epochs.append((rollout.epoch, rollout.groups, counts, self.minibatches))
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
    data.environment = environment or data.environment
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run does that is never stopped, and its last weights."""
    keeper = Keeper()
    _, weights = run(tmp_path_factory.mktemp("whole"), keeper)
    assert max(counts[2] for _, _, counts, _ in keeper.epochs) > 0  # something was carried
    return keeper.epochs, weights


@pytest.mark.parametrize("last", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_was_saved_and_goes_on_equals_one_that_was_not(tmp_path, whole, last):
    first, rest = Keeper(), Keeper()
    trainer, _ = run(tmp_path, first, epochs=last)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    _, weights = run(tmp_path, rest, ckpt_path=tmp_path / "kept.ckpt")
    assert first.epochs + rest.epochs == whole[0]
    assert_equal(weights, whole[1])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"max_staleness": 2}, {"workers": 1}, {"workers": 2, "max_staleness": 3}])
def test_the_same_with_workers_and_with_groups_that_are_carried_more_often(tmp_path, options):
    uncut, saving = Keeper(), Keeper(tmp_path)
    _, expected = run(tmp_path, uncut, **options)
    run(tmp_path, saving, epochs=4, **options)
    for last in (2, 3):
        rest = Keeper()
        _, weights = run(tmp_path, rest, ckpt_path=tmp_path / f"{last}.ckpt", **options)
        assert rest.epochs == uncut.epochs[last:]
        assert_equal(weights, expected)


def test_saving_disturbs_nothing_and_what_was_saved_while_the_run_went_on_is_as_good(tmp_path, whole):
    saving, rest = Keeper(tmp_path), Keeper()
    run(tmp_path, saving)
    assert saving.epochs == whole[0]
    kept = tmp_path / "3.ckpt"
    assert any(entry["paused"] for entry in torch.load(kept, weights_only=True)["RolloutDataModule"]["ranks"])
    _, weights = run(tmp_path, rest, ckpt_path=kept)
    assert rest.epochs == whole[0][3:]
    assert_equal(weights, whole[1])


class Interrupted(Exception):
    """Somebody else needs the machine."""


class SavedWhenInterrupted(Callback):
    """Is interrupted in an epoch's rollout, or before its update, and saves what there is."""

    def __init__(self, path, epoch, where):
        self.path, self.epoch, self.where = path, epoch, where

    def setup(self, trainer, pl_module, stage):
        engine = trainer.datamodule.engine
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
def test_a_run_that_is_interrupted_saves_what_the_epoch_began_with(tmp_path, whole, where):
    rest, kept = Keeper(), tmp_path / "interrupted.ckpt"
    with pytest.raises(Interrupted):
        run(tmp_path, SavedWhenInterrupted(kept, 2, where))
    entry = torch.load(kept, weights_only=True)["RolloutDataModule"]["ranks"][0]
    assert entry["paused"]
    assert max(group["noise_key"] for group in entry["groups"]) == 1
    run(tmp_path, rest, ckpt_path=kept)
    played = [(epoch, groups, counts) for epoch, groups, counts, _ in rest.epochs]
    assert played[0] == whole[0][2][:3]


class Elsewhere(GridworldEnvironment):
    """A gridworld that now and then says where it is in other words."""

    def step(self, action):
        observation, *rest, info = super().step(action)
        return f"{observation} {random.choice(['w', 'v'])}"[: len(observation) + 2 * info["success"]], *rest, info

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "instruction": info.get("instruction", "") + random.choice(["x", "y"])}


def test_where_the_environment_is_not_deterministic_episodes_begin_again(tmp_path):
    random.seed(0)
    trainer, _ = run(tmp_path, Keeper(), epochs=2, environment=Elsewhere())
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    rest = Keeper()
    run(tmp_path, rest, epochs=4, environment=Elsewhere(), ckpt_path=tmp_path / "kept.ckpt")
    assert rest.epochs[0][2][3] > 0
    assert [len(groups) for _, groups, _, _ in rest.epochs] == [4, 4]


def test_another_split_is_refused_by_the_name_of_a_task(tmp_path):
    trainer, _ = run(tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    kept["RolloutDataModule"]["ranks"][0]["groups"][0]["task_id"] = "somewhere else"
    torch.save(kept, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="these training tasks; in this one task 'somewhere else' is under way"):
        run(tmp_path, ckpt_path=tmp_path / "other.ckpt")


def test_a_run_that_carries_nothing_saves_nothing_and_takes_any_checkpoint(tmp_path):
    trainer, _ = run(tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    module = tiny_module()
    data = walking_data(random_walk(module))
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=3, limit_val_batches=0)
    trainer.fit(module, data, ckpt_path=tmp_path / "kept.ckpt", weights_only=True)
    assert data.last_rollout.progress.total == 16
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert "RolloutDataModule" not in torch.load(tmp_path / "plain.ckpt", weights_only=True)
