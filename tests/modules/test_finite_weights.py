"""Weights that a step has ruined replace no checkpoint and reach no engine, and the error says what to do."""

import re

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from callbacks import Export, Preemption, WeightSync
from gigpo_lightning.errors import Preempted
from gigpo_lightning.rollout import ScriptedEngine
from gigpo_lightning.token_batch import make_token_batch
from modules import BehaviourCloningModule, TinyPolicy
from modules.finite import first_not_finite
from tests.devices import ON_DEVICE
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Ruin(Callback):
    """Ruins a weight, or the optimizer's memory of one, by an epoch's updates."""

    def __init__(self, epoch, memory=False):
        self.epoch, self.memory = epoch, memory

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            weight = pl_module.policy.model.model.norm.weight
            (trainer.optimizers[0].state[weight]["exp_avg"] if self.memory else weight)[3] = torch.inf


class Stop(Callback):
    """What a scheduler's signal comes to."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise Preempted("as if")


def fit(folder, *callbacks, epochs=3):
    module = tiny_module()
    options = {"max_epochs": epochs, "limit_val_batches": 0, "enable_checkpointing": True}
    trainer = quiet_trainer(folder, ScriptedSync(), *callbacks, **options, **ON_DEVICE)
    trainer.fit(module, walking_data(random_walk(module)))


def keeper(folder):
    return ModelCheckpoint(
        folder / "kept", filename="one", save_top_k=1, every_n_epochs=1, enable_version_counter=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("memory", [False, True])
def test_the_good_checkpoint_stays_and_is_named(tmp_path, memory):
    what = "the optimizer's exp_avg of" if memory else "the weight"
    message = (
        f"{what} _policy.model.model.norm.weight must be finite, but is not after the updates of epoch 1; it is not "
        f"kept, and no checkpoint was replaced. Lower the learning rate (now 0.001) or the largest norm of gradients, "
        f"and go on with --ckpt_path {tmp_path / 'kept' / 'one.ckpt'}"
    )
    with pytest.raises(FloatingPointError, match=re.escape(message)):
        fit(tmp_path, keeper(tmp_path), Ruin(1, memory))
    (kept,) = (tmp_path / "kept").iterdir()
    assert torch.load(kept, weights_only=True)["gigpo"]["iteration"] == 1


def test_a_run_without_a_checkpoint_is_told_so(tmp_path):
    with pytest.raises(FloatingPointError, match=r"epoch 0; .* begin anew: there is no checkpoint yet"):
        fit(tmp_path, keeper(tmp_path), Ruin(0))
    assert not (tmp_path / "kept").exists()


def test_neither_an_export_nor_the_checkpoint_of_a_stopped_run_keeps_them(tmp_path):
    with pytest.raises(FloatingPointError, match="must be finite"):
        fit(tmp_path, Export(), Ruin(0))
    with pytest.raises(FloatingPointError, match="must be finite"):
        fit(tmp_path, Preemption(), Ruin(0), Stop())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".safetensors")]


def test_they_reach_no_engine():
    module, engine = tiny_module(), ScriptedEngine(lambda request: [])
    with torch.no_grad():
        module.policy.model.model.norm.weight[3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"norm.weight must be finite, but was not when it was loaded"):
        WeightSync().sync(module, engine)
    assert engine.policy_version != module.policy_version


def test_an_imitation_that_was_ruined_is_neither_kept_nor_written(tmp_path):
    module = BehaviourCloningModule(
        TinyPolicy([lambda: ["word"]], hidden_size=16), output_folder=str(tmp_path / "policy")
    )
    batches = DataLoader([make_token_batch([((2, 3), (3, 2))], 0)] * 2, batch_size=None)
    for callbacks in ([keeper(tmp_path), Ruin(0)], [Ruin(0)]):
        trainer = quiet_trainer(
            tmp_path, *callbacks, max_epochs=1, enable_checkpointing=len(callbacks) > 1, **ON_DEVICE
        )
        with pytest.raises(FloatingPointError, match="must be finite"):
            trainer.fit(module, batches)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".safetensors")]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_first_of_several_is_named(value, kind):
    tensors = {name: torch.ones(5, dtype=kind) for name in "abcd"} | {
        "empty": torch.ones(0),
        "whole": torch.ones(2).int(),
    }
    assert first_not_finite(tensors.items()) == ""
    tensors["c"][4] = tensors["d"][0] = value
    assert first_not_finite(tensors.items()) == "c"


def test_the_largest_numbers_are_finite():
    assert first_not_finite([("huge", torch.full((1000,), torch.finfo(torch.float32).max))]) == ""
