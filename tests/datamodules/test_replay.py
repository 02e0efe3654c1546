"""Training on stored rollouts is the training that stored them."""

import shutil

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks import AnchorStats, RolloutMetrics, Transcripts
from datamodules import ReplayDataModule
from gigpo_lightning.algorithm import GiGPO, LossSettings, TruncatedCorrection
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.rollout.store import read_trajectories, write_trajectories
from gigpo_lightning.trajectory import StepTable
from modules import GiGPOModule, TinyPolicy
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, walking_data

OPTIONS = {"minibatch_size": 16, "micro_batch_tokens": 64}


def make_module(seed: int = 0, **options) -> GiGPOModule:
    torch.manual_seed(seed)
    source = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=16, max_length=64)
    module = GiGPOModule(source, GiGPO(), **options)
    module.configure_model()
    return module


def weights(module: GiGPOModule) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.policy.state_dict().items()}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run of three epochs: where its episodes are, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("run")
    module = make_module()
    logger = CSVLogger(folder)
    trainer = quiet_trainer(folder, ScriptedSync(), Transcripts(), logger=logger, max_epochs=3, limit_val_batches=0)
    trainer.fit(module, walking_data(random_walk(module), **OPTIONS))
    return folder / "lightning_logs" / "version_0" / "trajectories", weights(module)


def replay(folder, source, *callbacks, module=None, **options):
    module = module or make_module()
    data = ReplayDataModule(str(source), **OPTIONS | options.pop("data", {}))
    trainer = quiet_trainer(folder, *callbacks, **{"max_epochs": 3} | options)
    trainer.fit(module, data)
    return trainer, module


def test_the_same_settings_give_the_same_weights_to_the_last_bit(played, tmp_path):
    source, expected = played
    _, module = replay(tmp_path, source)
    replayed = weights(module)
    assert all(torch.equal(replayed[name], expected[name]) for name in expected)
    assert not all(torch.equal(weights(make_module())[name], expected[name]) for name in expected)


def test_the_files_of_several_ranks_are_one_epoch(played, tmp_path):
    source, expected = played
    for epoch in range(3):
        groups, temperature = read_trajectories(source / f"epoch_{epoch}.parquet")
        for rank in range(3):  # of four groups one rank had two
            part = groups[rank::3]
            credit = GiGPO().estimate(StepTable.from_groups(part))
            write_trajectories(tmp_path / f"epoch_{epoch}.{rank}.parquet", part, credit, temperature=temperature)
    _, module = replay(tmp_path, tmp_path)
    assert all(torch.equal(weights(module)[name], expected[name]) for name in expected)


def test_another_loss_learns_something_else_from_the_same_episodes(played, tmp_path):
    source, expected = played
    loss = LossSettings(aggregation="token", importance_correction=TruncatedCorrection())
    _, module = replay(tmp_path, source, module=make_module(loss=loss))
    assert not all(torch.equal(weights(module)[name], expected[name]) for name in expected)


def test_what_watches_rollouts_watches_these(played, tmp_path):
    trainer, _ = replay(tmp_path, played[0], AnchorStats(), RolloutMetrics())
    assert {"anchors/group_size_mean", "rollout/success_rate"} <= trainer.callback_metrics.keys()


def test_more_epochs_than_there_are_files_are_refused(played, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.max_epochs must be at most .* got 4: there is no file of epoch 3"):
        replay(tmp_path, played[0], max_epochs=4)


def test_a_missing_epoch_is_refused_before_anything_is_trained(played, tmp_path):
    shutil.copytree(played[0], tmp_path / "some")
    (tmp_path / "some" / "epoch_1.parquet").unlink()
    with pytest.raises(ValueError, match="there is no file of epoch 1"):
        replay(tmp_path, tmp_path / "some")


def test_a_folder_without_rollouts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"folder must hold epoch_0\.parquet and so on, found none in"):
        ReplayDataModule(str(tmp_path))


def test_a_broken_file_is_named(played, tmp_path):
    (tmp_path / "epoch_0.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"epoch_0.parquet must be a Parquet file of trajectories, but cannot be read"):
        replay(tmp_path, tmp_path, max_epochs=1)


def test_it_only_trains(played, tmp_path):
    data = ReplayDataModule(str(played[0]))
    with pytest.raises(ValueError, match="ReplayDataModule only trains; test plays episodes"):
        data.setup("test")
