"""Random episodes of an environment, and what its anchors would make of them: what a check shows beside the rules."""

import random
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gigpo_lightning.environments.answers import Answer, read_reset, read_step
from gigpo_lightning.environments.base import Environment, Task
from gigpo_lightning.environments.tools import Tool, ToolCall, write_call
from gigpo_lightning.text import count, percent, shown

NOTHING_KNOWN = "no such command"
_ALMOST = 0.9  # share of steps that are alone from which on step credit has nothing to say
_HIGHEST = 12  # lines of an observation that is shown as it is
_EXAMPLES: Mapping[str, Any] = {"string": "a", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


class TrialError(ValueError):
    """An environment broke a rule, or raised, in a random episode; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A random episode.

    Attributes:
        task: Its task.
        answers: What the environment said: after ``reset``, then after each step.
        actions: What was sent.
        seconds: How long its steps took, without ``reset``.
    """

    task: Task
    answers: tuple[Answer, ...]
    actions: tuple[str, ...]
    seconds: float

    @property
    def anchors(self) -> tuple[Hashable, ...]:
        """The state of each step: the one that its action was chosen in."""
        return tuple(answer.anchor for answer in self.answers[:-1])

    @property
    def total(self) -> float:
        """Its return, undiscounted."""
        return sum(answer.reward for answer in self.answers)

    @property
    def success(self) -> bool | None:
        """What the last answer says of success; None if no answer says anything."""
        said = any(answer.success is not None for answer in self.answers[1:])
        return bool(self.answers[-1].success) if said else None


def play_at_random(
    environment: Environment, task: Task, num_steps: int, generator: random.Random, actions: Sequence[str] = ()
) -> Trial:
    """Play an episode of actions that are drawn evenly from what there is to choose from.

    These are ``actions``, or else the admissible ones, or else the tools with arguments that fit their types; where
    nothing is known, each action is ``no such command``.

    Raises:
        TrialError: If an answer breaks a rule, or the environment raises.
    """
    played: list[str] = []
    when, seconds = "reset", 0.0
    try:
        answers = [read_reset(environment.reset(options={"task": task}))]
        while len(played) < num_steps and not (answers[-1].terminated or answers[-1].truncated):
            played.append(_drawn(answers, actions, generator))
            when = f"step {len(played)} ({shown(played[-1])})"
            started = time.perf_counter()
            given = environment.step(played[-1])
            seconds += time.perf_counter() - started
            answers.append(read_step(played[-1], given))
    except (Exception, SystemExit) as error:  # whatever a user's environment raises is what the check is to say
        said = " ".join(str(error).split())
        raise TrialError(f"task {task.task_id!r}, {when}: {type(error).__name__}: {said}") from error
    return Trial(task=task, answers=tuple(answers), actions=tuple(played), seconds=seconds)


def _drawn(answers: Sequence[Answer], actions: Sequence[str], generator: random.Random) -> str:
    tools, choices = answers[0].tools, actions or answers[-1].admissible_actions or ()
    if not choices and tools:
        return example_call(generator.choice(tools), generator)
    return generator.choice(choices) if choices else NOTHING_KNOWN


def example_call(tool: Tool, generator: random.Random) -> str:
    """A call of a tool whose required arguments have values of their types."""
    function = tool["function"]
    schema = function["parameters"]
    properties = schema.get("properties", {})
    arguments = {name: _example(properties.get(name, {}), generator) for name in schema.get("required", ())}
    return write_call(ToolCall(name=function["name"], arguments=arguments))


def _example(schema: Mapping[str, Any], generator: random.Random) -> Any:
    if schema.get("enum"):
        return generator.choice(schema["enum"])
    kind = schema.get("type", "string")
    return schema.get("minimum", _EXAMPLES.get(kind if isinstance(kind, str) else kind[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorGroups:
    """The groups that steps of random episodes would have, by task and anchor (Eq. 6), without first steps.

    The first step of each episode of a task is in the same state, whatever the anchor is.

    Attributes:
        sizes: How many groups there are of each size.
        num_states: States that a task's episodes saw, the mean over tasks.
        num_episodes: Episodes that were played.
        known_actions: Whether there was anything to choose from.
    """

    sizes: Mapping[int, int]
    num_states: float
    num_episodes: int
    known_actions: bool

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> "AnchorGroups":
        """Group the steps of episodes."""
        played = tuple(trials)
        groups = Counter((trial.task.task_id, anchor) for trial in played for anchor in trial.anchors[1:])
        states = {(trial.task.task_id, anchor) for trial in played for anchor in trial.anchors}
        return cls(
            sizes=dict(sorted(Counter(groups.values()).items())),
            num_states=len(states) / max(1, len({trial.task.task_id for trial in played})),
            num_episodes=len(played),
            known_actions=any(action != NOTHING_KNOWN for trial in played for action in trial.actions),
        )

    @property
    def num_steps(self) -> int:
        """Steps after the first."""
        return sum(size * number for size, number in self.sizes.items())

    @property
    def alone(self) -> float:
        """Share of the steps that nothing is compared with."""
        return self.sizes.get(1, 0) / max(1, self.num_steps)

    def verdict(self) -> str:
        """What the groups mean for step credit, and what to do."""
        if not self.num_steps:
            return "episodes end with their first step: there are no later states to compare"
        if not self.known_actions:
            return (
                "no action is known, so nothing can be said of the anchors: offer info['admissible_actions'], or give "
                "commands with --actions 'open door, go on'"
            )
        if self.num_states <= 1:
            return (
                "all the same: every step of a task is compared with every other, whatever was done before. The "
                "observation says too little: set the anchor to the state. If no action did anything, give others with "
                "--actions"
            )
        if self.alone >= _ALMOST:
            return (
                f"all different: {percent(self.alone)} of the later steps are alone, and step credit says nothing of "
                "them. The anchor holds something that never comes twice, such as a clock, a score or the history: "
                "set the anchor to the state without it. In a large world random episodes may simply not meet"
            )
        return (
            f"{percent(1 - self.alone)} of the later steps are compared with others, in groups of "
            f"{self._mean():.1f} on average: step credit has something to say"
        )

    def _mean(self) -> float:
        together = {size: number for size, number in self.sizes.items() if size > 1}
        return sum(size * number for size, number in together.items()) / max(1, sum(together.values()))

    def table(self) -> str:
        """Numbers of groups by size, in a line."""
        ranges = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 1 << 60))
        found = []
        for low, high in ranges:
            number = sum(each for size, each in self.sizes.items() if low <= size <= high)
            name = f"{low}" if low == high else f"{low} to {high}" if high < 1 << 60 else f"{low} or more"
            found += [f"{number} of {name}"] if number else []
        return ", ".join(found) or "none"


def say_success(trials: Sequence[Trial]) -> str:
    """What is said of ``info['success']`` in some episodes."""
    if all(trial.success is None for trial in trials):
        return (
            "info['success'] never came: an episode without it has failed. Set it to True or False at the latest in "
            "an episode's last info"
        )
    number = sum(bool(trial.success) for trial in trials)
    ended = sum(trial.answers[-1].terminated or trial.answers[-1].truncated for trial in trials)
    said = f"{number} of {count(len(trials), 'random episode')} succeeded, {ended} ended by themselves"
    return f"{said}; is info['success'] right?" if number == len(trials) else said


def transcript(trial: Trial, num_steps: int = 10, longest: int = 160) -> list[str]:
    """An episode's first steps in lines: what was said and done, and the anchor where it is not the observation."""
    first = trial.answers[0]
    lines = [f"task {trial.task.task_id!r}" + (f": {_line(first.instruction, longest)}" if first.instruction else "")]
    for number, answer in enumerate(trial.answers[: num_steps + 1]):
        if number:
            lines.append(f"{number:3} > {_line(trial.actions[number - 1], longest)}")
        end = " terminated" * answer.terminated + " truncated" * answer.truncated + " success" * bool(answer.success)
        worth = f"   [reward {answer.reward:g}{end}]" if number else ""
        lines += [f"    {line}" for line in _lines(answer.observation, longest)]
        lines[-1] += worth
        if answer.says_anchor and answer.anchor != answer.observation:
            lines.append(f"    anchor: {_line(str(answer.anchor), longest)}")
    if len(trial.actions) > num_steps:
        lines.append(f"    ... {count(len(trial.actions) - num_steps, 'more step')}")
    if not first.says_anchor:
        lines.append("    (info has no anchor: each observation is the anchor)")
    return lines


def _lines(text: str, longest: int) -> list[str]:
    """A text of a few short lines, such as a map, as it is; any other in one line."""
    rows = text.splitlines()
    if 1 < len(rows) <= _HIGHEST and all(row.strip() and len(row) <= longest for row in rows):
        return rows
    return [_line(text, longest)]


def _line(text: str, longest: int) -> str:
    one = " ".join(text.split())
    return one if len(one) <= longest else f"{one[:longest]}..."
