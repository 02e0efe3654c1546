"""A run for ``test_learning``: ``python -m tests.learning_run FOLDER ESTIMATOR``.

In a process of its own, where annotations are not checked: at up to 50,000 steps that was three quarters of the time.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
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


def main() -> None:
    """Write held-out success before and after into ``success.json``."""
    folder, credit = Path(sys.argv[1]), {each.__name__: each for each in (GiGPO, ShuffledGiGPO)}[sys.argv[2]]()
    torch.set_num_threads(1)
    seed_everything(0)
    engine = VLLMEngine(kv_cache_gib=0.125)
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
    success = [float(np.mean(list(each.values()))) for _, each in evaluation.evaluations["valid_seen"]]
    (folder / "success.json").write_text(json.dumps(success))


if __name__ == "__main__":
    main()
