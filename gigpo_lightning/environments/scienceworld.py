"""ScienceWorld's thirty task types and published splits (arXiv 2203.07540, Apache 2.0): the extra ``scienceworld``.

The simulator is a Java program of 8 MB that the package brings; it needs Java 8 or newer, and downloads nothing.
"""

import contextlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, groupby, zip_longest
from typing import Any

import gymnasium

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.extras import import_extra
from gigpo_lightning.errors import RunError, check_count, check_range
from gigpo_lightning.provenance import installed_version
from gigpo_lightning.suggestions import did_you_mean

_EXTRA = "scienceworld"
_JAVA = ("-Xmx256m", "-XX:+UseSerialGC")  # without the first, Java takes a quarter of the machine's memory for a copy
_NEEDS = f"ScienceWorld (the extra {_EXTRA!r}) needs Java 8 or newer"
_INSTALL = "on Debian or Ubuntu: apt-get install default-jre-headless"
_CUP = re.compile(r"\s*an? \w+ cup \(containing \w+ paint\)")
_PATIENCE = 10.0  # seconds for the simulator to end
SPLITS = {"train": "getVariationsTrain", "dev": "getVariationsDev", "test": "getVariationsTest"}
"""The published splits, and what the simulator calls them: half of a task's variations, a quarter and a quarter."""


class ScienceWorldEnvironment(gymnasium.Env[str, str]):
    """Plays a task of ScienceWorld, such as boiling water, in a house with ten rooms.

    A step's reward is the change of the game's score, of which the whole is ``success_reward``. The game ends with the
    whole score, which is success, or with a mistake that cannot be mended, at -1 of it. There is no step limit here;
    the game's own default is 100.

    The anchor is what can be looked at without spending a step, the room and the inventory, with the game's list of
    the subgoals that are done.

    The variation decides the start, but for the order of the cups of paint in the art studio, which the simulator draws
    anew each time. Descriptions list them in one order here.

    Every copy starts a Java process, of about 350 MB, at its first ``reset``.

    Args:
        simplifications: The game's own ones, such as ``easy`` (all of them) or ``openDoors,teleportAction``.
        list_actions: Say which commands have an effect: hundreds, which takes most of a step's time. Otherwise the
            instruction says what commands look like.
        success_reward: Reward of the whole score.
        partial_credit: Reward parts of the score too, and take mistakes away.

    Raises:
        ValueError: If ``success_reward`` is not finite.
    """

    def __init__(
        self,
        simplifications: str = "",
        list_actions: bool = False,
        success_reward: float = 1.0,
        partial_credit: bool = True,
    ) -> None:
        check_range("success_reward", success_reward, -math.inf)
        self.simplifications = simplifications
        self.list_actions = list_actions
        self.success_reward = success_reward
        self.partial_credit = partial_credit
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._simulator: _Simulator | None = None
        self._score = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the variation of ``options["task"]``.

        Raises:
            ValueError: If there is no task with a name and a variation, or no such one, or no such simplification.
            RunError: If Java or the package is missing.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task) or not {"task", "variation"} <= set(task.payload):
            raise ValueError(f"options must have a 'task' with task and variation, got {options!r}")
        if self._simulator is None or not self._simulator.runs():
            self.close()
            self._simulator = _Simulator()
        game = self._simulator.game
        _load(game, str(task.payload["task"]), task.payload["variation"], self.simplifications)
        game.reset()
        self._score = 0.0
        observation = _settled(str(game.step("look around")))
        instruction = str(game.freeActionTaskDesc()).removeprefix("Task Description:").strip()
        if not self.list_actions:
            instruction += "\nCommands are, with an object for OBJ: " + ", ".join(map(str, game.getPossibleActions()))
        return observation.strip(), {**self._info(False), "instruction": instruction}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send a command."""
        if self._simulator is None:
            raise RunError("reset must be called before the first step")
        game = self._simulator.game
        observation = _settled(str(game.step(" ".join(action.split()))))
        score = float(game.getScore())
        success, failed = score >= 1.0, score < 0.0
        change = score - self._score if self.partial_credit else float(success)
        self._score = score
        over = success or failed or bool(game.getCompleted())
        return observation.strip(), self.success_reward * change, over, False, self._info(success)

    def close(self) -> None:
        """End the Java process."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _info(self, success: bool) -> dict[str, Any]:
        assert self._simulator is not None
        game = self._simulator.game
        lines = str(game.getGoalProgressStr()).splitlines()
        done = [str(number) for number, line in enumerate(lines) if "\ttrue\t" in line]
        room = _settled(str(game.freeActionLook()))
        anchor = f"{room}\n{game.freeActionInventory()}\nsubgoals done: {' '.join(done) or 'none'}"
        info = {"anchor": anchor, "success": success, "metrics": {"score": self._score}}
        if self.list_actions:
            listed = json.loads(game.getValidActionObjectCombinationsJSON())["validActions"]
            info["admissible_actions"] = tuple(sorted({each["action"] for each in listed}))
        return info


class ScienceWorldTasks:
    """Lists ScienceWorld's variations in its published splits, ``train``, ``dev`` and ``test``.

    Half of a task's variations are for training, and a quarter each for development and test; there are 7,207 of the
    thirty tasks. The first variation of every task stands before the second ones, so that the first tasks of a split
    are of all kinds. A task's name is its kind.

    Args:
        tasks: Names of tasks, such as ``boil``, or their numbers in the paper, such as ``1-1``; default: all.
        most_variations: Variations of a task in a split, its first; default: all. The tasks have between 10 and 1,386.

    Raises:
        ValueError: If ``most_variations`` is less than 1.
    """

    def __init__(self, tasks: list[str] | None = None, most_variations: int | None = None) -> None:
        if most_variations is not None:
            check_count("most_variations", most_variations)
        self.tasks = tasks
        self.most_variations = most_variations

    def prepare(self) -> None:
        """Ask the simulator for its tasks.

        Raises:
            RunError: If Java or the package is missing.
            ValueError: If there is no such task.
        """
        self._names()

    def panel(self, split: str) -> TaskPanel:
        """List the split's variations.

        Raises:
            RunError: If Java or the package is missing.
            ValueError: If there is no such split or task.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {tuple(SPLITS)}, got {split!r}")
        version = installed_version("scienceworld") or ""
        listed = [
            [
                Task(
                    task_id=f"{name}/{variation}",
                    kind=name,
                    payload={"task": name, "variation": variation},
                    fingerprint=version,
                )
                for variation in _variations()[name][split][: self.most_variations]
            ]
            for name in self._names()
        ]
        return TaskPanel.from_tasks(task for task in chain(*zip_longest(*listed)) if task is not None)

    def _names(self) -> list[str]:
        known = _variations()
        numbers = import_extra("scienceworld.constants", _EXTRA).ID2TASK
        names = [numbers.get(name, name) for name in self.tasks or known]
        for name in names:
            if name not in known:
                raise ValueError(f"tasks must be among {', '.join(known)}, got {name!r}{did_you_mean(name, known)}")
        return names


class _Simulator:
    """A Java process with one game, as games of one process would share what they count."""

    def __init__(self) -> None:
        if shutil.which("java") is None:
            raise RunError(f"{_NEEDS}, and there is no java on the PATH; {_INSTALL}")
        py4j = import_extra("py4j.java_gateway", _EXTRA)
        constants = import_extra("scienceworld.constants", _EXTRA)
        try:
            port, self._process = py4j.launch_gateway(
                classpath=constants.JAR_PATH,
                cwd=constants.BASEPATH,
                javaopts=list(_JAVA),
                die_on_exit=True,
                return_proc=True,
            )
        except Exception as error:  # py4j reads a port from what Java says, whatever that is
            raise RunError(f"{_NEEDS}, but its Java process did not start ({error!r}); {_INSTALL}") from error
        parameters = py4j.GatewayParameters(port=port, auto_field=True)
        self._gateway = py4j.JavaGateway(gateway_parameters=parameters, java_process=self._process)
        self.game = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def runs(self) -> bool:
        """Whether the process is alive."""
        return bool(self._process.poll() is None)

    def close(self) -> None:
        """End the process, which waits for a line or for the end of its input."""
        with contextlib.suppress(Exception):  # what py4j raises of a process that has died
            self._gateway.shutdown()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _settled(text: str) -> str:
    """A description in which neighbouring cups of paint stand in alphabetic order."""
    runs = groupby(text.split("\n"), lambda line: bool(_CUP.fullmatch(line)))
    return "\n".join(line for are_cups, run in runs for line in (sorted(run) if are_cups else run))


@contextlib.contextmanager
def _simulator() -> Iterator[_Simulator]:
    simulator = _Simulator()
    try:
        yield simulator
    finally:
        simulator.close()


@lru_cache(maxsize=1)
def _variations() -> dict[str, dict[str, list[int]]]:
    """The variations of every task, by split."""
    with _simulator() as simulator:
        found = {}
        for name in map(str, simulator.game.getTaskNames()):
            simulator.game.load(name, 0, "", False)
            found[name] = {
                split: [int(each) for each in getattr(simulator.game, method)()] for split, method in SPLITS.items()
            }
    return found


def _load(game: Any, name: str, variation: object, simplifications: str) -> None:
    """Load a variation: the simulator itself would take a wrong one for another."""
    known = list(map(str, game.getTaskNames()))
    if name not in known:
        raise ValueError(f"task must be one of ScienceWorld's, got {name!r}{did_you_mean(name, known)}")
    most = int(game.getTaskMaxVariations(name))
    if not isinstance(variation, int) or not 0 <= variation < most:
        raise ValueError(f"variation must be in [0, {most - 1}] for the task {name!r}, got {variation!r}")
    possible = ["easy", *str(game.getPossibleSimplifications()).split(", ")]
    for simplification in filter(None, simplifications.split(",")):
        if simplification not in possible:
            raise ValueError(f"simplifications must be among {', '.join(possible)}, got {simplification!r}")
    game.load(name, variation, simplifications, False)
