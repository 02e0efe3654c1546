"""A whole run without vLLM: the gridworld, a tiny policy, and an engine that walks at random."""

from pathlib import Path

from lightning.pytorch import Callback, Trainer

from callbacks import GroupFigure
from datamodules import RolloutDataModule
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.environments.gridworld import (
    MOVES,
    GridworldEnvironment,
    GridworldTasks,
    gridworld_words,
)
from gigpo_lightning.interruption import never
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.rollout import GenerationRequest, SamplingParameters, ScriptedEngine
from modules import GiGPOModule, TinyPolicy


class ScriptedSync(Callback):
    """Tells the scripted engine the policy's version before each rollout: a script has no weights to compare."""

    def sync(self, policy, engine, should_stop=never):
        engine.load_weights([], policy.policy_version)


def tiny_module(hidden_size: int = 16) -> GiGPOModule:
    """A module with a policy that knows the gridworld's words."""
    return GiGPOModule(
        TinyPolicy([gridworld_words, gridworld_markers], hidden_size=hidden_size, max_length=64), GiGPO()
    )


def random_walk(module: GiGPOModule) -> ScriptedEngine:
    """An engine whose moves depend on each request's seed alone."""
    tokenizer = module.policy.tokenizer
    moves = list(MOVES)

    def script(request: GenerationRequest) -> list[int]:
        return [*tokenizer.encode(moves[request.seed % len(moves)]), tokenizer.end_token_id]

    return ScriptedEngine(script)


def walking_data(engine: ScriptedEngine, **options) -> RolloutDataModule:
    """Four tasks times four episodes an epoch, at most four steps each."""
    defaults = {
        "sampling": SamplingParameters(max_tokens=2),
        "tasks_per_epoch": 4,
        "group_size": 4,
        "max_steps": 4,
        "workers": 0,
    }
    tasks = GridworldTasks(size=3, num_walls=0)
    environment = options.pop("environment", GridworldEnvironment())
    return RolloutDataModule(environment, tasks, GridworldPrompt(), engine, **defaults | options)


def quiet_trainer(folder: Path, *callbacks: Callback, **options) -> Trainer:
    """A Trainer that shows nothing and keeps nothing."""
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    undrawn = () if any(isinstance(each, GroupFigure) for each in callbacks) else (GroupFigure(every_n_epochs=0),)
    return Trainer(callbacks=[*callbacks, *undrawn], **defaults | options)
