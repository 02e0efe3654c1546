"""The whole loop, on real vLLM: it learns, and it does not when each step gets another step's advantage."""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks import HeldOutEvaluation, WeightSync
from datamodules import RolloutDataModule
from gigpo_lightning.algorithm import Credit, GiGPO
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.rollout import SamplingParameters, VLLMEngine
from gigpo_lightning.trajectory import StepTable
from modules import GiGPOModule, TinyPolicy


class ShuffledGiGPO(GiGPO):
    """The same advantages, dealt out to the wrong steps."""

    def estimate(self, table: StepTable) -> Credit:
        credit = super().estimate(table)
        order = np.random.default_rng(len(table)).permutation(len(table))
        return replace(credit, advantage=credit.advantage[order])


@pytest.fixture(autouse=True)
def unchecked_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests check annotations; at each of up to 50,000 steps here that was 78 % of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def engine():
    engine = VLLMEngine(kv_cache_gib=0.125)
    yield engine
    engine.close()


def train(engine: VLLMEngine, credit: GiGPO, folder) -> tuple[float, float]:
    """Held-out success before and after."""
    seed_everything(0)
    engine._version = -1  # another module's weights, whatever its version
    module = GiGPOModule(
        TinyPolicy([gridworld_words, gridworld_markers], max_length=64),
        credit,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=4e-3),
    )
    data = RolloutDataModule(
        GridworldEnvironment(),
        GridworldTasks(size=3, num_walls=0),
        GridworldPrompt(),
        engine,
        sampling=SamplingParameters(max_tokens=1),
        tasks_per_epoch=16,
        max_steps=10,
        minibatch_size=96,
        held_out_splits=["valid_seen"],
        held_out_repeats=4,
        workers=0,
    )
    evaluation = HeldOutEvaluation()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=40,
        num_sanity_val_steps=-1,
        check_val_every_n_epoch=40,
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[WeightSync(), evaluation],
    )
    trainer.fit(module, data)
    before, after = (np.mean(list(each.values())) for _, each in evaluation.evaluations["valid_seen"])
    return float(before), float(after)


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_learns_the_gridworld(engine, tmp_path):
    before, after = train(engine, GiGPO(), tmp_path)
    assert before < 0.2
    assert after > 0.5


@pytest.mark.vllm
@pytest.mark.slow
def test_the_loop_does_not_learn_from_shuffled_advantages(engine, tmp_path):
    _, after = train(engine, ShuffledGiGPO(), tmp_path)
    assert after < 0.35
