"""Steps per second of ALFWorld's engine, stock and fast, on the same games and the same commands.

    python benchmarks/alfworld_engine.py DATA_DIR [--games 6] [--steps 30]

``DATA_DIR`` holds ``json_2.1.1/``; without it, small games are made in a temporary folder. Loading and resetting are
timed apart from stepping. Use one idle core: the ratio is what counts.
"""

import argparse
import logging
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence

from gigpo_lightning.environments.alfworld import AlfworldEnvironment, Scenes, alfworld_panel, generate_scenes
from gigpo_lightning.environments.base import Task

_logger = logging.getLogger(__name__)


def measure(tasks: Sequence[Task], num_steps: int, fast: bool) -> tuple[float, float, float]:
    """Seconds of a first reset, of a second reset of the same game, and of a step; averages."""
    environment = AlfworldEnvironment(fast=fast)
    environment.reset(options={"task": tasks[0]})  # imports, and the grammar that all games share
    first = again = stepping = 0.0
    steps = 0
    for task in tasks[1:]:
        rng = random.Random(task.task_id)
        start = time.perf_counter()
        environment.reset(options={"task": task})
        middle = time.perf_counter()
        _, info = environment.reset(options={"task": task})
        end = time.perf_counter()
        first += middle - start
        again += end - middle
        for _ in range(num_steps):
            action = rng.choice(info["admissible_actions"])
            start = time.perf_counter()
            _, _, terminated, _, info = environment.step(action)
            stepping += time.perf_counter() - start
            steps += 1
            if terminated:
                break
    environment.close()
    return first / len(tasks[1:]), again / len(tasks[1:]), stepping / steps


def main() -> None:
    """Measure both engines, and log one line each and the ratio."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="?")
    parser.add_argument("--split", default="train")
    parser.add_argument("--games", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data_dir is None:
            scenes = Scenes(train=arguments.games + 1, valid_seen=0, valid_unseen=0)
            maker = multiprocessing.get_context("spawn").Process(target=generate_scenes, args=(folder, scenes))
            maker.start()  # a process of its own: here the translations would be kept
            maker.join()
        tasks = alfworld_panel(arguments.data_dir or folder, arguments.split).tasks[: arguments.games + 1]
        per_step = {}
        for name, fast in (("stock", False), ("fast", True)):
            first, again, per_step[name] = measure(tasks, arguments.steps, fast)
            line = "%-5s first reset %.3f s, second %.4f s, %.0f steps/s"
            _logger.info(line, name, first, again, 1 / per_step[name])
    _logger.info("fast steps are %.0f times as fast", per_step["stock"] / per_step["fast"])


if __name__ == "__main__":
    main()
