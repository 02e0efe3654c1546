"""A whole run on one process or on several, for ``test_ranks``: ``python -m tests.ranks_run FOLDER DEVICES STRATEGY``.

The trajectories do not depend on the number of processes: a reply's noise is its own, and so is an episode's length.
"""

import argparse
import os
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

import modules
from callbacks import AnchorStats, Export, GroupFigure, TensorBoardLayout, Transcripts
from datamodules import RolloutDataModule
from gigpo_lightning.algorithm import GiGPO, ReinforcePlusPlus
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.ranks import gather, wait_for_tensors_to_go
from gigpo_lightning.rollout import CarryOver, SamplingParameters
from gigpo_lightning.rollout.tasks import epoch_tasks
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk

EPOCHS, TASKS = 2, 4
PANEL = GridworldTasks(size=3, num_walls=0)
LONG = {task.task_id for epoch in range(EPOCHS) for task in epoch_tasks(PANEL.panel("train"), TASKS, epoch, 0)[::2]}


class UnevenGridworld(GridworldEnvironment):
    """Ends after six steps in the tasks that the first of two ranks is dealt, after two in the others; never before."""

    def reset(self, *, seed=None, options=None):
        self._left = 6 if options["task"].task_id in LONG else 2
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        self._left -= 1
        return observation, reward, False, self._left == 0, info


class Watch(Callback):
    """Keeps what every rank has played and trained on, and raises where it is told to."""

    def __init__(self, failing: int | None) -> None:
        self.failing = failing
        self.steps, self.updates, self.backward_passes, self.losses, self.weights = [], [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.failing and trainer.current_epoch == 1:
            raise ValueError("argument must be what it is not: this rank has failed")
        self.backward_passes.append(len(batch.micro_batches))

    def on_train_epoch_end(self, trainer, pl_module):
        self.steps.append(len(trainer.datamodule.experience.table.reward))
        self.updates.append(pl_module.policy_version)
        self.losses.append(float(trainer.callback_metrics["loss/policy"]))

    def on_fit_end(self, trainer, pl_module):
        self.tokens = {name: float(value) for name, value in trainer.callback_metrics.items() if "update/" in name}
        self.weights = [(name, value.clone().cpu()) for name, value in pl_module.policy.named_weights()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("strategy")
    parser.add_argument("--failing", type=int)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--whole_batch", action="store_true")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--carry", action="store_true")
    parser.add_argument("--plain", action="store_true", help="compute a row a step: nothing is shared")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    modules.tree_attention.QUICK = (32,)  # some trees are larger: their attention is computed by blocks
    settings = LossSettings(kl_coefficient=0.1, entropy_coefficient=0.01, aggregation="trajectory")
    policy = modules.TinyPolicy([gridworld_words, gridworld_markers], hidden_size=arguments.width, max_length=64)
    checkpoint = arguments.folder / f"start_{os.getpid()}"  # each rank has its own
    policy.build().save_pretrained(checkpoint)
    start = modules.PretrainedPolicy(str(checkpoint), attention="eager" if arguments.plain else None)
    module = modules.GiGPOModule(
        modules.LoraPolicy(start, rank=4) if arguments.lora else start,
        ReinforcePlusPlus() if arguments.whole_batch else GiGPO(),
        settings,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4),
    )
    data = RolloutDataModule(
        UnevenGridworld(),
        PANEL,
        GridworldPrompt(),
        random_walk(modules.GiGPOModule(policy, GiGPO())),
        sampling=SamplingParameters(max_tokens=2),
        tasks_per_epoch=TASKS,
        group_size=3,
        max_steps=8,
        minibatch_size=20,
        micro_batch_tokens=150,
        workers=0,
        carry_over=CarryOver(extra_groups=2) if arguments.carry else None,
        num_slots=4 if arguments.carry else None,  # so few that some episodes are under way when a rollout stops
        deterministic=True,
    )
    watch = Watch(arguments.failing)
    trainer = quiet_trainer(
        arguments.folder,
        ScriptedSync(),
        watch,
        Export(every_n_epochs=10),
        *(TensorBoardLayout(), AnchorStats(), GroupFigure(every_n_epochs=1), Transcripts()),
        logger=TensorBoardLogger(arguments.folder, name="", version=""),
        devices=arguments.devices,
        strategy=modules.FSDP2Strategy(save_distributed_checkpoint=True)
        if arguments.strategy == "fsdp2_folder"
        else arguments.strategy,
        max_epochs=arguments.epochs,
        limit_val_batches=0,
    )
    trainer.fit(module, data, ckpt_path=arguments.resume, weights_only=True)
    told = gather({"steps": watch.steps, "updates": watch.updates, "backward_passes": watch.backward_passes})
    if arguments.checkpoint:
        trainer.save_checkpoint(arguments.checkpoint)
    if trainer.is_global_zero:
        kept = {"ranks": told, "weights": dict(watch.weights), "losses": watch.losses, "tokens": watch.tokens}
        torch.save(kept, arguments.folder / "kept.pt")
    wait_for_tensors_to_go()


if __name__ == "__main__":
    main()
