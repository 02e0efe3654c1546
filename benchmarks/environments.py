"""Steps a second of Sokoban, and of the adapters whose packages are installed, on one core.

    python benchmarks/environments.py [--seconds 5]

A random player takes admissible actions, or the commands below where an environment lists none. Resets count. Times are
the process's own, whatever else runs; ScienceWorld's, which plays in a Java process, are the clock's.
"""

import argparse
import importlib.util
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gigpo_lightning.environments.base import Environment, Task, TaskSource
from gigpo_lightning.environments.reasoning_gym import ReasoningGymEnvironment
from gigpo_lightning.environments.scienceworld import ScienceWorldEnvironment, ScienceWorldTasks
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.sokoban import SokobanEnvironment, SokobanTasks, generate_level, solve
from gigpo_lightning.environments.textarena import TextArenaEnvironment

_logger = logging.getLogger(__name__)
SEEDS = {"train": [0, 63]}


@dataclass(frozen=True)
class Candidate:
    """What is measured: an environment, its tasks, and what a player does where no actions are listed."""

    name: str
    environment: Environment
    tasks: TaskSource
    commands: Sequence[str] = ()
    clock: Callable[[], float] = time.process_time


def candidates() -> Iterator[Candidate]:
    """Those whose packages are here."""
    yield Candidate("Sokoban, 6 x 6", SokobanEnvironment(), SokobanTasks(num_train=256))
    if importlib.util.find_spec("reasoning_gym"):
        for dataset in ("leg_counting", "countdown"):
            tasks = SeededTasks(SEEDS, ids=[dataset])
            yield Candidate(f"reasoning-gym, {dataset}", ReasoningGymEnvironment(attempts=3), tasks, ("12", "no"))
    if importlib.util.find_spec("textarena"):
        games = {"FrozenLake-v0": ("up", "down", "left", "right"), "TowerOfHanoi-v0": ("A B", "A C", "B C", "C A")}
        for game, commands in games.items():
            yield Candidate(f"TextArena, {game}", TextArenaEnvironment(), SeededTasks(SEEDS, ids=[game]), commands)
    if importlib.util.find_spec("scienceworld") and shutil.which("java"):
        for listed in (False, True):
            name = f"ScienceWorld, find-plant{', with the list of actions' if listed else ''}"
            world, commands = (
                ScienceWorldEnvironment(list_actions=listed),
                ("look around", "open door to kitchen", "wait1"),
            )
            yield Candidate(name, world, ScienceWorldTasks(["find-plant"]), commands, time.perf_counter)


def steps_per_second(candidate: Candidate, seconds: float, longest: int = 36) -> float:
    """Steps of episodes of at most ``longest`` steps."""
    rng = random.Random(0)
    tasks = candidate.tasks.panel("train").tasks[:64]
    candidate.environment.reset(options={"task": tasks[0]})  # imports, and starts what it has to start
    start, steps = candidate.clock(), 0
    while candidate.clock() - start < seconds:
        steps += _play(candidate, rng.choice(tasks), rng, longest)
    return steps / (candidate.clock() - start)


def _play(candidate: Candidate, task: Task, rng: random.Random, longest: int) -> int:
    _, info = candidate.environment.reset(options={"task": task})
    for step in range(1, longest + 1):
        action = rng.choice(info.get("admissible_actions") or candidate.commands)
        _, _, terminated, truncated, info = candidate.environment.step(action)
        if terminated or truncated:
            return step
    return longest


def main() -> None:
    """Measure and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for candidate in candidates():
        try:
            _logger.info("%s: %.0f steps/s", candidate.name, steps_per_second(candidate, options.seconds))
        finally:
            candidate.environment.close()
    start = time.process_time()
    levels = [generate_level(seed) for seed in range(500)]
    made = time.process_time()
    for level in levels:
        solve(level)
    _logger.info(
        "Sokoban, 6 x 6: a level is made in %.2f ms and solved in %.2f ms",
        2 * (made - start),
        2 * (time.process_time() - made),
    )


if __name__ == "__main__":
    main()
