"""``gigpo check-environment``: whether an environment keeps the rules, and what its anchors are worth."""

import contextlib
import json
import logging
import random
import signal
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from gigpo_lightning.complaints import constructor_complaint, find_key, parser_complaint
from gigpo_lightning.config_action import StrictConfigFile, refuse_nothing, with_near_words
from gigpo_lightning.environments.base import Task, TaskSource, check_environment
from gigpo_lightning.environments.gymnasium_text import GymnasiumEnvironment
from gigpo_lightning.environments.judge import JudgeError
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.splits import check_source, read_panel
from gigpo_lightning.environments.trial import (
    AnchorGroups,
    Trial,
    TrialError,
    play_at_random,
    say_success,
    transcript,
)
from gigpo_lightning.errors import RuleError, RunError, check_count, check_seed
from gigpo_lightning.messages import log_to_stderr, say_error
from gigpo_lightning.pool.copies import EnvironmentCopies
from gigpo_lightning.quick_answers import SUBCOMMANDS
from gigpo_lightning.text import count
from gigpo_lightning.yaml_files import load_yaml_file

NAME = "check-environment"
BROKEN = 1
"""The exit code where a rule is broken. It is 2 where nothing could be checked: the command line is wrong, or the
environment misses a package, a program or a server."""

_OF_RUN = ("environment", "tasks", "train_split", "held_out_splits", "max_steps")
_OURS = "gigpo_lightning."
_ADAPTER = f"{GymnasiumEnvironment.__module__}.{GymnasiumEnvironment.__qualname__}"
_MENDABLE = (ValueError, ImportError, OSError, RunError, ArgumentError)
_MISSING = (RunError, ImportError, OSError, JudgeError)
"""What an environment raises that misses something: it says nothing about the rules."""
_REFUSED = (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError, *_MENDABLE)
_USAGE = f"gigpo {NAME} CLASS_OR_ID [--tasks CLASS] [--KEY VALUE ...]\n       gigpo {NAME} --config RUN.yaml"
_MORE_HELP = f"""\
CLASS_OR_ID is the import path of an environment's class, or an id of Gymnasium's, which {_ADAPTER} plays. Its arguments
follow as --environment.NAME. Without --tasks, tasks are seeds (SeededTasks). Of a run's YAML the data section counts.
It ends with 0 if every rule is kept, with 1 if one is broken, and with 2 if nothing could be checked. docs/adapters.md
says what the answers mean."""

_logger = logging.getLogger(__name__)


def check(
    environment: gymnasium.Env,
    tasks: TaskSource | None = None,
    train_split: str = "train",
    held_out_splits: list[str] | None = None,
    num_tasks: int = 4,
    group_size: int = 8,
    max_steps: int = 30,
    actions: str = "",
    seed: int = 0,
) -> bool:
    """Check an environment on some of its tasks, and print what was found.

    Args:
        environment: The environment, as a run's ``data.init_args.environment``.
        tasks: Where its tasks come from; default: the seeds from 0 on.
        train_split: The split whose first tasks are played.
        held_out_splits: Other splits; the first task of each is checked too.
        num_tasks: Tasks of ``train_split`` that are played.
        group_size: Random episodes of each task.
        max_steps: Steps of an episode at most.
        actions: What random episodes choose from, with commas between, or as a list of texts in JSON; default: the
            admissible actions.
        seed: Of the random choices.

    Returns:
        Whether every rule is kept.

    Raises:
        ValueError: If a number is too small, or a split is not known.
        RunError: If the environment misses something that it needs, so that it could not be checked.
    """
    for name, number in (("num_tasks", num_tasks), ("group_size", group_size), ("max_steps", max_steps)):
        check_count(name, number)
    check_seed(seed)
    known = _listed(actions)
    say = Console(markup=False, highlight=False, soft_wrap=True).print
    source = SeededTasks({train_split: [0, num_tasks - 1]}) if tasks is None else tasks
    held_out = tuple(held_out_splits or ())
    if tasks is not None:
        check_source(source, (train_split, *held_out))
    played = read_panel(source, train_split).tasks[:num_tasks]
    say(f"{_name(environment)} on {count(len(played), 'task')} of split {train_split!r}")
    broken = _broken_rule(environment, [*played, *(read_panel(source, split).tasks[0] for split in held_out)])
    trials: list[Trial] = []
    try:
        trials = _play(environment, played, group_size, max_steps, random.Random(seed), known) if not broken else []
    except TrialError as error:
        if _misses_something(error.__cause__):
            raise RunError(_not_checked(error)) from error
        broken = str(error)
    if broken:
        say(f"\nrule broken: {broken}")
        if tasks is None and not isinstance(environment, GymnasiumEnvironment):
            say(_hint(environment))
        return False
    say("rules: kept")
    say("\na random episode")
    say("\n".join(transcript(trials[0])))
    _say_findings(say, trials)
    return True


def _listed(actions: str) -> list[str]:
    """The actions of a list in JSON, in which commas may be part of one, or between commas."""
    with contextlib.suppress(ValueError):
        found = json.loads(actions)
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
    return [action.strip() for action in actions.split(",") if action.strip()]


def _misses_something(error: BaseException | None) -> bool:
    """Whether an environment has failed for want of a package, a program or a server, and not by a broken rule."""
    return isinstance(error, _MISSING) and not isinstance(error, RuleError)


def _not_checked(error: Exception) -> str:
    return f"the environment could not be checked: {' '.join(str(error).split())}"


def _broken_rule(environment: Any, tasks: Sequence[Task]) -> str:
    """The first rule that is broken, with the task; empty if none is.

    Raises:
        RunError: If the environment misses something that it needs.
    """
    for task in tasks:
        try:
            check_environment(environment, task)
        except (ValueError, RuleError) as error:
            return f"task {task.task_id!r}: {' '.join(str(error).split())}"
        except Exception as error:  # whatever a user's environment raises is what the check is to say
            if _misses_something(error):
                raise RunError(_not_checked(error)) from error
            last = traceback.extract_tb(error.__traceback__)[-1]
            _logger.debug("the whole story:", exc_info=True)
            said = " ".join(str(error).split())
            where = f" ({last.filename}, line {last.lineno})"
            return f"task {task.task_id!r}: reset and step must not raise, but: {type(error).__name__}: {said}{where}"
    return ""


def _play(
    environment: Any,
    tasks: Sequence[Task],
    group_size: int,
    max_steps: int,
    generator: random.Random,
    actions: Sequence[str],
) -> list[Trial]:
    """Random episodes on one copy, as a pool would make it."""
    copies = EnvironmentCopies(environment)
    copy = copies.copy(0)
    try:
        return [play_at_random(copy, task, max_steps, generator, actions) for task in tasks for _ in range(group_size)]
    finally:
        copies.close()


def _say_findings(say: Callable[[str], None], trials: Sequence[Trial]) -> None:
    groups = AnchorGroups.of(trials)
    steps, seconds = sum(len(trial.actions) for trial in trials), sum(trial.seconds for trial in trials)
    totals = [trial.total for trial in trials]
    say(f"\nanchors: {groups.verdict()}")
    say(f"  {count(groups.num_steps, 'later step')}, {groups.num_states:.1f} states a task; groups: {groups.table()}")
    say(f"success: {say_success(trials)}")
    say(f"return: from {min(totals):g} to {max(totals):g}, mean {sum(totals) / len(totals):g}")
    say(f"length: {steps / len(trials):.1f} steps on average")
    say(f"speed: {steps / max(seconds, 1e-9):,.0f} steps/s, one environment after another in one process")


def _name(environment: object) -> str:
    kind = type(environment)
    of = f" ({environment.env_id})" if isinstance(environment, GymnasiumEnvironment) else ""
    return f"{kind.__module__}.{kind.__qualname__}{of}"


def _hint(environment: object) -> str:
    """What is said of a class that may know no tasks."""
    kind = type(environment)
    said = "its tasks were seeds: Task(payload={'seed': 0}). If it has tasks of its own, give --tasks"
    if kind.__module__.startswith(_OURS):  # none of ours is reset with a bare seed
        return f"({said})"
    return (
        f"({said}. If it is reset with a seed and knows no tasks: gigpo {NAME} {_ADAPTER} --environment.env_id "
        f"{kind.__module__}.{kind.__qualname__})"
    )


class RunFile(StrictConfigFile):
    """``--config``: of a run's YAML, what says which environment is played on which tasks."""

    def chosen(self, path: str) -> str:
        """That part of the file, as the parser takes it."""
        held = load_yaml_file(path)
        data = held.get("data")
        given = data.get("init_args") if isinstance(data, dict) else None
        if isinstance(given, dict) and isinstance(given.get("player"), dict):  # imitation plays on held-out tasks
            given = given | given["player"]
        found = {name: given[name] for name in _OF_RUN if name in given} if isinstance(given, dict) else {}
        return yaml.safe_dump(found or {"seed": 0}, sort_keys=False)


def command_line() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog=f"gigpo {NAME}",
        usage=_USAGE,
        description=SUBCOMMANDS[NAME],
        epilog=_MORE_HELP,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action=RunFile, help="A run's YAML file; a later one goes on top.")
    parser.add_function_arguments(check, as_group=False)
    return parser


def carry_out(words: Sequence[str]) -> int:
    """Do what the words ask for.

    Returns:
        The exit code: 0 if every rule is kept, else ``BROKEN``.

    Raises:
        ValueError: If the words, or what they name, are wrong.
    """
    parser, options = command_line(), _options(words)
    if not options:
        raise ValueError(f"CLASS_OR_ID or --config must say which environment is checked: gigpo {NAME} --help")
    try:
        config = parser.parse_args(options)
    except ArgumentError as error:
        if "are required: environment" in str(error):
            raise ValueError("data.init_args.environment must be given by --config, or CLASS_OR_ID") from error
        raise ValueError(parser_complaint(with_near_words(str(error), parser))) from error
    refuse_nothing(parser, config)
    made = parser.instantiate(config, instantiators=[(partial(_make, config), object, True)])
    made.pop("config", None)
    return 0 if check(**vars(made)) else BROKEN


def _options(words: Sequence[str]) -> list[str]:
    """The words with CLASS_OR_ID as an option, and ``--data`` and ``init_args`` taken off the names of options."""
    named = list(words[:1]) if words and not words[0].startswith("-") else []
    rest = [_short(word) for word in words[len(named) :]]
    if not named:
        return rest
    if gymnasium_id(named[0]):
        return ["--environment", _ADAPTER, "--environment.env_id", named[0], *rest]
    return ["--environment", named[0], *rest]


def gymnasium_id(word: str) -> bool:
    """Whether a word is an id, as Gymnasium writes them, and no import path.

    Example:
        >>> gymnasium_id("MiniGrid-Empty-5x5-v0"), gymnasium_id("tales/Zork1-v0"), gymnasium_id("corridor.Corridor")
        (True, True, False)
    """
    return not all(part.isidentifier() for part in word.split(".")) or "." not in word


def _short(word: str) -> str:
    for prefix in ("--data.init_args.", "--data."):
        if word.startswith(prefix):
            return f"--{word.removeprefix(prefix)}"
    return word


def _make(config: Namespace, class_type: type, /, *args: Any, **kwargs: Any) -> Any:
    """Make an object that the options name; what its constructor refuses is a ``ValueError`` with the full key."""
    kwargs.pop("applied_instantiation_links", None)
    try:
        return class_type(*args, **kwargs)
    except RunError:
        raise
    except _REFUSED as error:
        key = find_key(config, class_type, kwargs)
        raise ValueError(constructor_complaint(error, class_type, kwargs, key) if key else str(error)) from error


def main() -> None:
    """Run the command line; what a user can mend ends with one line, not a traceback."""
    log_to_stderr()
    words = sys.argv[1:]
    try:
        raise SystemExit(carry_out(words[1:] if words[:1] == [NAME] else words))
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + signal.SIGINT) from stop
    except _MENDABLE as error:
        parsed = "Does not validate" in str(error)
        say_error(parser_complaint(str(error)) if parsed else " ".join(str(error).split()))
        raise SystemExit(2) from error
