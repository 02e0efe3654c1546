"""The data sets of reasoning-gym: questions made by seed, with several attempts at each as turns, and their curricula.

reasoning-gym (arXiv 2505.24760, Apache 2.0) is the extra ``reasoning-gym``; it downloads nothing.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import gymnasium

from gigpo_lightning.environments.base import TaskPanel
from gigpo_lightning.environments.extras import import_extra
from gigpo_lightning.environments.seeded_tasks import SeededTasks, seed_of
from gigpo_lightning.errors import RunError, check_count, check_range
from gigpo_lightning.provenance import installed_version
from gigpo_lightning.text import shown

_logger = logging.getLogger(__name__)
_EXTRA = "reasoning-gym"
_OWN_SETTINGS = ("seed", "size")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Question:
    """A question of a data set, and what scores its answers."""

    dataset: Any
    entry: Mapping[str, Any]


class ReasoningGymEnvironment(gymnasium.Env[str, str]):
    """Asks a question of reasoning-gym; every step is an attempt at its answer.

    The data set scores an answer from 0 to 1. A step's reward is what it adds to the best score so far, so that the
    episode's return is its best score, times ``success_reward``. The episode ends with an answer of at least
    ``success_score``, or after the last attempt. What stands between ``<answer>`` tags is the answer, else the whole
    action.

    The question has no states. The anchor is the number of the attempt, so that first attempts are compared with
    each other, and second ones too. An answer at which the data set's own scoring fails, as some do at words where
    a number is asked for, scores 0: ``info["metrics"]["unscored_answers"]`` counts them.

    A task's payload has a ``seed``, as ``SeededTasks`` lists; with its ``ids``, the id names the data set.
    ``ReasoningGymTasks`` also lists levels of curricula.

    Args:
        dataset: The data set of tasks that name none, such as ``leg_counting``.
        attempts: Answers that may be given.
        settings: The data set's own settings, in place of its defaults.
        success_score: Score from which on an answer is right.
        partial_credit: Reward lower scores too.
        success_reward: Reward of a score of 1.

    Raises:
        ValueError: If a number is out of its range, or ``settings`` has the seed or the size.
    """

    def __init__(
        self,
        dataset: str | None = None,
        attempts: int = 1,
        settings: dict[str, Any] | None = None,
        success_score: float = 1.0,
        partial_credit: bool = True,
        success_reward: float = 1.0,
    ) -> None:
        check_count("attempts", attempts)
        check_range("success_score", success_score, 0.0, 1.0)
        check_range("success_reward", success_reward)
        _check_settings(settings or {})
        self.dataset = dataset
        self.attempts = attempts
        self.settings = settings or {}
        self.success_score = success_score
        self.partial_credit = partial_credit
        self.success_reward = success_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self._question: _Question | None = None
        self._attempt = 0
        self._best = 0.0
        self._unscored = 0

    def warm_up(self) -> None:
        """Import the package, which takes seconds.

        Raises:
            RunError: If it is not installed.
        """
        import_extra("reasoning_gym", _EXTRA)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Ask the question of ``options["task"]``.

        Raises:
            ValueError: If there is no task with a seed, or no such data set, level or setting.
        """
        super().reset(seed=seed)
        task, number = seed_of(options)
        name = str(task.payload.get("dataset") or task.payload.get("id") or self.dataset or "")
        if not name:
            raise ValueError(
                f"dataset must be given to the environment or by the task, but {task.task_id!r} names none"
            )
        settings = {**self.settings, **task.payload.get("settings", {})}
        self._question = _ask(name, number, task.payload.get("level"), json.dumps(settings, sort_keys=True))
        self._attempt, self._best, self._unscored = 1, 0.0, 0
        text = str(self._question.entry["question"])
        return text, {**self._info(False), "instruction": text}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score an answer."""
        if self._question is None:
            raise RunError("reset must be called before the first step")
        found = _ANSWER.search(action)
        score = self._score((found[1] if found else action).strip(), self._question)
        right = score >= self.success_score
        worth = score if right or self.partial_credit else 0.0
        reward = self.success_reward * max(0.0, worth - self._best)
        self._best = max(self._best, worth)
        self._attempt += 1
        over = right or self._attempt > self.attempts
        said = "right" if right else f"not right, score {score:.2f} of 1"
        observation = f"This answer is {said}." + ("" if over else f" Attempt {self._attempt} of {self.attempts}.")
        return observation, reward, over, False, self._info(right)

    def _info(self, right: bool) -> dict[str, Any]:
        return {
            "anchor": "right" if right else f"attempt {self._attempt}",
            "success": right,
            "metrics": {"best_score": self._best, "unscored_answers": float(self._unscored)},
        }

    def _score(self, answer: str, question: _Question) -> float:
        try:
            return float(question.dataset.score_answer(answer, question.entry))
        except Exception as error:  # a data set decides itself what it raises at answers that it cannot read
            if not self._unscored:
                _logger.debug("%s cannot score %s: %r", type(question.dataset).__name__, shown(answer), error)
            self._unscored += 1
            return 0.0


class ReasoningGymTasks:
    """Lists questions of data sets and of levels of their curricula, by ranges of seeds.

    The package makes a curriculum's settings from a level: 0 is the easiest, and an attribute that has fewer levels
    stays at its highest. A data set, or a level of it, is its tasks' kind in the metrics. The panels' hash covers the
    package's version, as another one may ask other questions.

    Args:
        splits: First and last seed of each split, both included, as for ``SeededTasks``.
        datasets: Names of data sets; default: all, or all for which every one of the ``levels`` can be made.
        levels: Levels of their curricula; default: the data sets' own settings.
        settings: Settings of them all, in place of those of the data set or the level.

    Raises:
        ValueError: If the ranges are none, a level is negative, or ``settings`` has the seed or the size.
    """

    def __init__(
        self,
        splits: dict[str, list[int]],
        datasets: list[str] | None = None,
        levels: list[int] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        SeededTasks(splits)  # refuses ranges that are none
        for level in levels or ():
            check_count("levels", level, 0)
        _check_settings(settings or {})
        self.splits = splits
        self.datasets = datasets
        self.levels = levels
        self.settings = settings or {}

    def prepare(self) -> None:
        """Check that the data sets, and their levels, are there.

        Raises:
            RunError: If reasoning-gym is not installed.
            ValueError: If it has no such data set, or no such level of its curriculum.
        """
        for name in self._names:
            self._check(name)

    def panel(self, split: str) -> TaskPanel:
        """List the split's tasks.

        Raises:
            ValueError: If there is no such split.
        """
        return self._tasks.panel(split)

    @property
    def _levels(self) -> list[int | None]:
        return [*self.levels] if self.levels else [None]

    @cached_property
    def _names(self) -> list[str]:
        if self.datasets is not None:
            return self.datasets
        names = usable_datasets()
        kept = [name for name in names if self._can_be_made(name)]
        if len(kept) < len(names):
            left_out = ", ".join(name for name in names if name not in kept)
            _logger.warning("data sets without levels %s of a curriculum are left out: %s", self.levels, left_out)
        return kept

    def _can_be_made(self, name: str) -> bool:
        try:
            self._check(name)
        except ValueError:
            return False
        return True

    def _check(self, name: str) -> None:
        for level in self._levels:
            _make(name, 0, level, self.settings)

    @cached_property
    def _tasks(self) -> SeededTasks:
        package = f"reasoning-gym {installed_version('reasoning-gym')}"
        ids: dict[str, dict[str, Any]] = {}
        for name in self._names:
            for level in self._levels:
                kind = name if level is None else f"{name} level {level}"
                ids[kind] = {"dataset": name, "level": level, "settings": self.settings, "package": package}
        return SeededTasks(self.splits, ids=ids)


def usable_datasets() -> list[str]:
    """Names of the data sets that need no settings.

    Raises:
        RunError: If reasoning-gym is not installed.
    """
    import_extra("reasoning_gym", _EXTRA)
    factory = import_extra("reasoning_gym.factory", _EXTRA)
    return sorted(set(factory.DATASETS) - {"composite"})  # which is a mixture that its settings name


def num_levels(dataset: str) -> int:
    """Number of levels of a data set's curriculum; 0 if it has none.

    Raises:
        RunError: If reasoning-gym is not installed.
    """
    import_extra("reasoning_gym", _EXTRA)
    factory = import_extra("reasoning_gym.factory", _EXTRA)
    if not factory.has_curriculum(dataset):
        return 0
    attributes = factory.create_curriculum(dataset).attributes.values()
    return max((len(attribute.levels) for attribute in attributes), default=0)


@lru_cache(maxsize=32)  # the episodes of a group; some data sets take seconds to make
def _ask(name: str, seed: int, level: int | None, settings: str) -> _Question:
    dataset = _make(name, seed, level, json.loads(settings))
    return _Question(dataset=dataset, entry=dataset[0])


def _make(name: str, seed: int, level: int | None, settings: Mapping[str, Any]) -> Any:
    """A data set of one question."""
    import_extra("reasoning_gym", _EXTRA)
    factory = import_extra("reasoning_gym.factory", _EXTRA)
    if name not in factory.DATASETS:
        raise ValueError(
            f"dataset must be one of reasoning-gym's, got {name!r}; they are {', '.join(factory.DATASETS)}"
        )
    given = {**settings, "seed": seed, "size": 1}
    try:
        if level is None:
            return factory.create_dataset(name, **given)
        number = num_levels(name)
        if level >= number:
            raise ValueError(f"level must be one of its curriculum's {number} levels, counted from 0, got {level}")
        curriculum = factory.create_curriculum(name)
        curriculum.set_global_level(level)
        dataset, _ = factory.DATASETS[name]
        return dataset(config=curriculum.generate_configuration(given))
    except (AssertionError, TypeError, ValueError) as error:  # of its settings
        raise ValueError(f"reasoning-gym's data set {name!r} cannot be made with {dict(settings)}: {error}") from error


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name in _OWN_SETTINGS:
        if name in settings:
            raise ValueError(f"settings must not have {name!r}, which the task decides, got {dict(settings)}")
