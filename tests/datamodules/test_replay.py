"""Training on stored rollouts is the training that stored them."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Callback
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


@pytest.mark.slow
def test_the_same_settings_give_the_same_weights_to_the_last_bit(played, tmp_path):
    source, expected = played
    _, module = replay(tmp_path, source)
    replayed = weights(module)
    assert all(torch.equal(replayed[name], expected[name]) for name in expected)
    assert not all(torch.equal(weights(make_module())[name], expected[name]) for name in expected)


@pytest.mark.slow
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


@pytest.mark.slow
def test_another_loss_learns_something_else_from_the_same_episodes(played, tmp_path):
    source, expected = played
    loss = LossSettings(aggregation="token", importance_correction=TruncatedCorrection())
    _, module = replay(tmp_path, source, module=make_module(loss=loss))
    assert not all(torch.equal(weights(module)[name], expected[name]) for name in expected)


@pytest.mark.slow
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


def rewritten(source, folder, change, names=("epoch_0.parquet", "epoch_1.parquet", "epoch_2.parquet")):
    """The files with their tables changed."""
    folder.mkdir(exist_ok=True)
    for name in names:
        pq.write_table(change(pq.ParquetFile(source / name).read()), folder / name)
    return folder


def shuffled(table):
    return table.take(np.random.default_rng(0).permutation(len(table)))


@pytest.mark.slow
def test_shuffled_files_train_as_the_original_to_the_last_bit(played, tmp_path):
    source, expected = played
    _, module = replay(tmp_path, rewritten(source, tmp_path / "shuffled", shuffled))
    assert all(torch.equal(weights(module)[name], expected[name]) for name in expected)


def test_overfitting_stored_episodes_is_refused(played, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.overfit_batches must be left out with ReplayDataModule"):
        replay(tmp_path, played[0], overfit_batches=1)


def test_shuffled_files_give_the_minibatches_of_the_original(played, tmp_path):
    def minibatches(source):
        module = make_module()
        data = ReplayDataModule(str(source), **OPTIONS)
        data.trainer = quiet_trainer(tmp_path)
        data.trainer.strategy.connect(module)
        return [
            [getattr(batch, name) for name in ("old_logprobs", "advantage", "row")]
            + [batch.tokens.input_ids, batch.tokens.until, batch.tokens.source]
            for minibatch in data.make_experience(0).minibatches(module, data.batching)
            for batch in minibatch.micro_batches
        ]

    ours, theirs = minibatches(rewritten(played[0], tmp_path / "shuffled", shuffled)), minibatches(played[0])
    assert len(ours) == len(theirs) > 1
    assert all(
        torch.equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
def test_a_replayed_epoch_has_the_trees_of_the_run_that_stored_it(tmp_path):
    module = make_module()
    kept: list[list[list[int]]] = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            kept.append([part.tokens.until.flatten().tolist() for part in batch.micro_batches])

    options = OPTIONS | {"minibatch_by": "episodes"}
    logger = CSVLogger(tmp_path)
    callbacks = ScriptedSync(), Transcripts(), Keep()
    trainer = quiet_trainer(tmp_path, *callbacks, logger=logger, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, walking_data(random_walk(module), **options))
    stored, kept = kept, []
    source = tmp_path / "lightning_logs" / "version_0" / "trajectories"
    replay(tmp_path, source, Keep(), data=options, max_epochs=1)
    assert len(stored) > 1
    assert kept == stored


def replaced(name, value):
    """Another value in a column's row 3."""

    def change(table):
        values = [*table[name].to_pylist()[:3], value, *table[name].to_pylist()[4:]]
        return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), r"row 0, column \w+: must count from 0"),
        (replaced("reward", float("nan")), r"row 3, column reward: must be in \[-1e30, 1e30\], got nan"),
        (
            replaced("prompt_ids", [7000]),
            r"row 3, column prompt_ids: must hold token ids below \d+, the policy's vocab",
        ),
        (
            replaced("prompt_ids", [3] * 64),
            "row 3, column prompt_ids: must be at most 64 tokens with its reply, the po",
        ),
    ],
)
def test_the_last_epoch_s_file_is_refused_before_anything_is_trained(played, tmp_path, change, message):
    source, module = shutil.copytree(played[0], tmp_path / "some"), make_module()
    rewritten(played[0], source, change, ["epoch_2.parquet"])
    with pytest.raises(ValueError, match=rf"epoch_2.parquet, {message}"):
        replay(tmp_path, source, module=module)
    assert module.iteration == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["epoch_0.0", "epoch_0.2"], "epoch_0.0.parquet, epoch_0.1.parquet, got epoch_0.0.parquet, epoch_0.2.parquet"),
        (["epoch_0", "epoch_0.0"], "epoch_0.0.parquet, epoch_0.1.parquet, got epoch_0.0.parquet, epoch_0.parquet"),
        (["epoch_0.0", "epoch_0.1", "epoch_1.0"], "epoch_1.0.parquet, epoch_1.1.parquet, got epoch_1.0.parquet"),
        (["epoch_1.1"], "epoch_1.parquet, got epoch_1.1.parquet"),
    ],
)
def test_a_folder_without_the_file_of_a_rank_is_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / f"{name}.parquet").touch()
    with pytest.raises(ValueError, match=f"folder must hold one file of each rank for every epoch, {message} in"):
        ReplayDataModule(str(tmp_path))


def test_ranks_that_drew_at_different_temperatures_are_refused(played, tmp_path):
    groups, _ = read_trajectories(played[0] / "epoch_0.parquet")
    for rank, temperature in enumerate([1.0, 0.5]):
        write_trajectories(tmp_path / f"epoch_0.{rank}.parquet", groups[rank::2], temperature=temperature)
    with pytest.raises(ValueError, match=r"0.1.parquet, column temperature: must be 1.0, as in epoch_0.0.parquet, got"):
        replay(tmp_path, tmp_path, max_epochs=1)
