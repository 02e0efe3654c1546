"""Scripted players of the gridworld: exact episodes without a model."""

from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks
from gigpo_lightning.pool.base import EnvironmentPool
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import Collector, GenerationRequest, SamplingParameters, ScriptedEngine, make_pool
from tests.prompts.word_tokenizer import GrowingTokenizer


def walker(tokenizer: GrowingTokenizer, *moves: str):
    """A script that cycles through moves, by the number of the step that a request is for."""

    def script(request: GenerationRequest) -> list[int]:
        step = int(request.request_id.split("/")[-1])
        return [*tokenizer.encode(moves[step % len(moves)]), *tokenizer.stop_token_ids]

    return script


def make_collector(
    *moves: str,
    max_steps: int = 4,
    num_slots: int = 4,
    workers: int = 0,
    pool: EnvironmentPool | None = None,
    **options,
) -> Collector:
    tokenizer = GrowingTokenizer()
    engine = options.pop("engine", None) or ScriptedEngine(walker(tokenizer, *moves))
    return Collector(
        engine=engine,
        pool=pool or make_pool(GridworldEnvironment(), num_slots, workers),
        prompt=GridworldPrompt(),
        tokenizer=tokenizer,
        sampling=SamplingParameters(max_tokens=4),
        max_steps=max_steps,
        seed=options.pop("seed", 0),
        **options,
    )


def gridworld_tasks(count: int):
    return GridworldTasks().panel("train").tasks[:count]
