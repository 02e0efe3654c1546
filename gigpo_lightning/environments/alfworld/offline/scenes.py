"""Games made offline in the format of the official data, for all six task types."""

import logging
import multiprocessing
import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from gigpo_lightning.environments.alfworld.engine import EngineSlot, close_slot, open_slot
from gigpo_lightning.environments.alfworld.offline.floor_plans import split_plans
from gigpo_lightning.environments.alfworld.offline.games import Game, Goal, draw_game, possible_goals
from gigpo_lightning.environments.alfworld.task_types import KINDS, SPLITS
from gigpo_lightning.environments.generated import make_once
from gigpo_lightning.errors import check_count

_logger = logging.getLogger(__name__)

_FORMAT = 2  # counted up when the same settings would give other games
_MANIFEST = "scenes.json"
_MANY_SCENES = 200  # a process takes seconds to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Which games to make. The same settings give the same files, byte for byte.

    ``train`` and ``valid_seen`` share floor plans; ``valid_unseen`` has those that ALFRED holds out.

    Attributes:
        seed: Where all draws come from.
        train: Games in ``train``; the six task types take turns.
        valid_seen: Games in ``valid_seen``.
        valid_unseen: Games in ``valid_unseen``.
        receptacles: At most so many receptacles a game; more make the search longer.
        objects: At most so many objects a game, lamps aside.
        duplicates: At most so many objects of one class; two targets are always allowed where two are asked for.

    Raises:
        ValueError: If a number is too small.
    """

    seed: int = 0
    train: int = 600
    valid_seen: int = 120
    valid_unseen: int = 240
    receptacles: int = 8
    objects: int = 12
    duplicates: int = 2

    def __post_init__(self) -> None:
        least = {"seed": 0, "train": 0, "valid_seen": 0, "valid_unseen": 0}
        least |= {"receptacles": 4, "objects": 2, "duplicates": 1}
        for name, minimum in least.items():
            check_count(name, getattr(self, name), minimum)


def generate_scenes(data_dir: str | Path, scenes: Scenes, processes: int | None = None) -> None:
    """Make the games, prove each winnable on the engine, and put them in ``data_dir/json_2.1.1``.

    If they are there already, nothing is done. The folder appears when all is done, never in part; two processes may
    make the same one.

    Args:
        data_dir: Where the folder goes; it is made.
        scenes: Which games to make.
        processes: How many processes make them, each whole splits; with 1, this one does. More change no byte. Default:
            two where there are many games.

    Raises:
        ValueError: If ``data_dir`` holds other games, or ``processes`` < 1.
    """
    folder, num_scenes = Path(data_dir) / "json_2.1.1", scenes.train + scenes.valid_seen + scenes.valid_unseen
    if processes is None:
        processes = min(2, os.cpu_count() or 1) if num_scenes >= _MANY_SCENES else 1
    check_count("processes", processes)

    def write(partial: Path) -> None:
        _logger.info("making %d scenes in %s", num_scenes, folder)
        _write_splits(partial, scenes, processes)

    make_once(folder, _MANIFEST, {"format": _FORMAT, **asdict(scenes)}, "scenes", "data_dir", write)


def _write_splits(folder: Path, scenes: Scenes, processes: int) -> None:
    if processes == 1:
        for split in SPLITS:
            _generate_split(folder / split, split, scenes)
        return
    largest_first = sorted(SPLITS, key=lambda split: -getattr(scenes, split))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for made in [pool.submit(_generate_split, folder / split, split, scenes) for split in largest_first]:
            made.result()


def _generate_split(folder: Path, split: str, scenes: Scenes) -> None:
    plans = split_plans(split)
    goals = {kind: GoalBalance(possible_goals(kind, plans)) for kind in KINDS}
    folder.mkdir()
    slot = open_slot(fast=True)
    try:
        for index in range(getattr(scenes, split)):
            _draw_winnable(goals[KINDS[index % len(KINDS)]], split, index, scenes, slot).write(folder)
    finally:
        close_slot(slot)


def _draw_winnable(goals: "GoalBalance", split: str, index: int, scenes: Scenes, slot: EngineSlot) -> Game:
    for attempt in count():
        rng = random.Random(f"{scenes.seed}/{split}/{index}/{attempt}")
        goal = goals.draw(rng)
        name = f"trial_T{index:08d}_{rng.randrange(10**6):06d}_{rng.randrange(10**6):06d}"
        limits = {"num_receptacles": scenes.receptacles, "num_objects": scenes.objects, "duplicates": scenes.duplicates}
        game = draw_game(rng, goal, name, **limits)
        if _is_won(slot, game):
            break
        _logger.info("drew game %s again: its walkthrough does not win", game.folder())
    return game


class GoalBalance:
    """Draws goals so that every class of object comes up as often as any other, and so do receptacles."""

    def __init__(self, goals: list[Goal]) -> None:
        self._goals = goals
        self._targets: Counter[str] = Counter()
        self._places: Counter[str] = Counter()

    def draw(self, rng: random.Random) -> Goal:
        """A goal whose object, then whose receptacle, came up least often so far."""
        least = min(self._targets[goal.target] for goal in self._goals)
        goals = [goal for goal in self._goals if self._targets[goal.target] == least]
        target = rng.choice(sorted({goal.target for goal in goals}))
        goals = [goal for goal in goals if goal.target == target]
        fewest = min(self._places[goal.place] for goal in goals)
        place = rng.choice(sorted({goal.place for goal in goals if self._places[goal.place] == fewest}))
        goal = rng.choice([goal for goal in goals if goal.place == place])
        self._targets[goal.target] += 1
        self._places[goal.place] += 1
        return goal


def _is_won(slot: EngineSlot, game: Game) -> bool:
    """Whether the walkthrough wins with its last command, and not before."""
    content = game.content()
    slot.start(content)
    wins = [slot.step(command)[1] for command in content["walkthrough"]]
    return wins[-1] and not any(wins[:-1])
