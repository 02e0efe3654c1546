"""Demonstrations: what an expert would do in states that a less sure player reaches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gigpo_lightning.countdown import Countdown
from gigpo_lightning.environments.answers import read_reset, read_step
from gigpo_lightning.environments.base import Environment, Task
from gigpo_lightning.errors import check_range
from gigpo_lightning.prompts.base import TurnView


@runtime_checkable
class Expert(Protocol):
    """Plays one episode after another from what a player may see."""

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode and begin one."""

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """Say what to do now."""

    def observe(self, action: str) -> None:
        """Hear what was really done, be it the expert's advice or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One turn, with the episode's whole history, and the command with which the expert answers it."""

    view: TurnView
    action: str
    kind: str


def demonstrate(
    environment: Environment,
    tasks: Sequence[Task],
    expert: Expert,
    *,
    detour_probability: float,
    max_steps: int,
    seed: int,
    slip_probability: float = 0.0,
    ignored_actions: Sequence[str] = ("help",),
) -> Iterator[Demonstration]:
    """Play every task with detours, and label every state reached with the expert's action.

    Each episode draws its own rate of detours, up to ``detour_probability``: states that the expert would never reach
    are seen with its advice too, and states that need no cure are seen as well. Some detours are slips, commands of an
    earlier turn that now do nothing: a policy that never saw one fail repeats it when it first makes one.

    ``slip_probability`` is the share of slips among the detours, where there is a command to slip to; no detour is one
    of ``ignored_actions``.

    Raises:
        ValueError: If a probability is not in [0, 1], an answer of the environment breaks a rule, or detours are asked
            for and the environment lists no admissible actions to take them among.
    """
    for name, value in (("detour_probability", detour_probability), ("slip_probability", slip_probability)):
        check_range(name, value, 0.0, 1.0)
    countdown = Countdown("demonstrations: episode")
    for number, task in enumerate(tasks):
        countdown.reach(float(number), len(tasks))
        rng = random.Random(f"{seed}/{number}/{task.task_id}")
        rate = rng.uniform(0, detour_probability)
        answer = read_reset(environment.reset(options={"task": task}))
        instruction, tools = answer.instruction or answer.observation, answer.tools
        expert.reset(instruction, answer.observation)
        history: list[tuple[str, str]] = []
        offered: dict[str, None] = {}  # in order, so that draws are the same on every machine
        for _ in range(max_steps):
            listed = answer.admissible_actions
            if listed is None and detour_probability:
                raise ValueError("environment must list info['admissible_actions'] to take detours, and does not")
            view = TurnView(
                instruction=instruction,
                observation=answer.observation,
                admissible_actions=listed,
                history=tuple(history),
                tools=tools,
            )
            admissible = listed or ()
            advice = expert.act(answer.observation, admissible)
            yield Demonstration(view=view, action=advice, kind=task.kind)
            detours = [action for action in admissible if action not in ignored_actions]
            slips = [action for action in offered if action not in admissible] if slip_probability else []
            offered |= dict.fromkeys(admissible)
            if slips and rng.random() < slip_probability:
                detours = slips
            action = rng.choice(detours) if detours and rng.random() < rate else advice
            expert.observe(action)
            history.append((answer.observation, action))
            answer = read_step(action, environment.step(action))
            if answer.terminated or answer.truncated:
                break
