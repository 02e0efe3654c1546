"""Panels of ALFWorld games, from a folder of the official layout."""

import hashlib
import json
import logging
import random
import shlex
from collections.abc import Sequence
from pathlib import Path

from gigpo_lightning.environments.alfworld.offline.scenes import Scenes, generate_scenes
from gigpo_lightning.environments.alfworld.task_types import KINDS, SPLITS
from gigpo_lightning.environments.base import Task, TaskPanel

_logger = logging.getLogger(__name__)

_REQUIRED = ("pddl_domain", "grammar", "pddl_problem")


def alfworld_panel(
    data_dir: str | Path, split: str, kinds: Sequence[str] | None = None, skip_corrupt: bool = False
) -> TaskPanel:
    """List a split's games in an order that is the same on every machine, and mixes kinds and objects.

    Reads the official data unchanged, and leaves out what alfworld itself leaves out: movable receptacles, sliced
    objects, games not marked solvable.

    The arguments are those of ``AlfworldTasks``. Files that ``skip_corrupt`` leaves out are named and counted in the
    log.

    Raises:
        ValueError: If split, kinds or folder are wrong, nothing is left, or a game file is corrupt.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    wanted = KINDS if kinds is None else tuple(kinds)
    unknown = sorted(set(wanted) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be among {KINDS}, got {unknown}")
    folder = Path(data_dir) / "json_2.1.1" / split
    if not folder.is_dir():
        raise ValueError(
            f"data_dir must hold json_2.1.1/{split}, but {folder} is not a folder; the official games are fetched by: "
            f"alfworld-download --data-dir {shlex.quote(str(data_dir))}"
        )
    files = sorted(folder.rglob("game.tw-pddl"), key=lambda file: file.relative_to(folder).as_posix())
    tasks: list[Task] = []
    corrupt: list[str] = []
    for file in files:
        name = file.parent.relative_to(folder).as_posix()
        kind = name.split("-", 1)[0]
        if kind not in wanted or "movable" in name or "Sliced" in name:
            continue
        content = file.read_bytes()
        try:
            solvable = _is_solvable(content)
        except ValueError as error:
            corrupt.append(f"{file}: {error}")
            continue
        if solvable:
            fingerprint = hashlib.sha256(content).hexdigest()
            tasks.append(Task(task_id=name, kind=kind, payload={"game_file": str(file)}, fingerprint=fingerprint))
    _report_corrupt(corrupt, skip_corrupt)
    if not tasks:
        raise ValueError(
            f"data_dir must hold games of {list(wanted)}, but {folder} has {len(files)} games, none of them"
        )
    random.Random(0).shuffle(tasks)  # in order of their paths, neighbours would share kind and object
    return TaskPanel.from_tasks(tasks)


class AlfworldTasks:
    """Where a run's ALFWorld games come from.

    Args:
        data_dir: The folder that holds, or will hold, ``json_2.1.1/``.
        kinds: Task types to keep; default: all six.
        skip_corrupt: Leave out game files that cannot be read, and go on.
        scenes: Make these scenes in ``data_dir`` if they are not there yet; default: only read.
    """

    def __init__(
        self, data_dir: str, kinds: list[str] | None = None, skip_corrupt: bool = False, scenes: Scenes | None = None
    ) -> None:
        self.data_dir = data_dir
        self.kinds = kinds
        self.skip_corrupt = skip_corrupt
        self.scenes = scenes

    def prepare(self) -> None:
        """Make the scenes, if any are asked for; at once where they exist."""
        if self.scenes is not None:
            generate_scenes(self.data_dir, self.scenes)

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel, as ``alfworld_panel`` lists it."""
        return alfworld_panel(self.data_dir, split, self.kinds, self.skip_corrupt)


def _is_solvable(content: bytes) -> bool:
    """Whether a game file says that its game can be won; refused if it is not a game file."""
    try:
        game = json.loads(content)
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(game, dict):
        raise ValueError("not a JSON object")
    missing = [key for key in _REQUIRED if not isinstance(game.get(key), str)]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    return game.get("solvable") is True


def _report_corrupt(corrupt: list[str], skip_corrupt: bool) -> None:
    if not corrupt:
        return
    listed = "; ".join(corrupt[:5]) + ("; …" if len(corrupt) > 5 else "")
    if not skip_corrupt:
        raise ValueError(f"{len(corrupt)} game files are corrupt: {listed}. Mend them, or set skip_corrupt: true")
    _logger.warning("left out %d corrupt game files: %s", len(corrupt), listed)
