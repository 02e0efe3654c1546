"""What an environment may answer to ``reset`` and ``step``: one reading for rollouts, demonstrations and checks."""

import math
import pickle
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gigpo_lightning.environments.tools import tool_schemas
from gigpo_lightning.text import shown, well_formed

_RESET = "(observation, info)"
_STEP = "(observation, reward, terminated, truncated, info)"
LARGEST_REWARD = 1e30
"""Training adds and multiplies rewards in float32, which ends at 3e38."""


class AnswerError(ValueError):
    """An environment's answer breaks a rule; the message names the rule, the call and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that keeps the rules, its texts without lone surrogates.

    Attributes:
        observation: What the world says now.
        anchor: The state, by its key; the observation as the environment wrote it if the info has none.
        admissible_actions: Commands that do something; None where the info does not say.
        instruction: What is asked for; empty where the info does not say.
        tools: JSON schemas of the functions that the policy may call; none where the info does not say.
        success: Whether the episode has succeeded; None where the info does not say.
        metrics: The environment's own figures of the episode so far.
        scores: Its own numbers of the step, by name; none of a reset.
        says_anchor: Whether the info has an anchor.
        reward: Of the step; 0 after a reset.
        terminated: Gymnasium's.
        truncated: Gymnasium's.
    """

    observation: str
    anchor: Hashable
    admissible_actions: tuple[str, ...] | None = None
    instruction: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    success: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    says_anchor: bool = False
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def read_reset(answer: object) -> Answer:
    """Read what ``reset`` returned.

    Raises:
        AnswerError: If it breaks a rule.
    """
    said = _values("reset", answer, _RESET, 2)
    read = _read("reset", said)
    if "tools" not in said[1]:
        return read
    try:
        return replace(read, tools=tool_schemas(said[1]["tools"]))
    except ValueError as error:
        raise AnswerError(f"reset gave info['tools'] that cannot be used: {error}") from error


def read_step(action: str, answer: object) -> Answer:
    """Read what ``step(action)`` returned.

    Raises:
        AnswerError: If it breaks a rule.
    """
    when = f"step({shown(action)})"
    observation, reward, terminated, truncated, info = _values(when, answer, _STEP, 5)
    number = _number(reward)
    _check(math.isfinite(number), "the reward must be a finite number", when, reward)
    _check(abs(number) <= LARGEST_REWARD, "the reward must be in [-1e30, 1e30]", when, reward)
    _check(_is_bool(terminated), "terminated must be True or False", when, terminated)
    _check(_is_bool(truncated), "truncated must be True or False", when, truncated)
    return _read(when, (observation, info), reward=number, terminated=bool(terminated), truncated=bool(truncated))


def _check(kept: bool, rule: str, when: str, found: object) -> None:
    if not kept:
        raise AnswerError(f"{rule}, but {when} gave {shown(found)}")


def _values(when: str, answer: object, form: str, count: int) -> tuple[Any, ...]:
    if not isinstance(answer, tuple) or len(answer) != count:
        found = f"{len(answer)} values: {shown(answer)}" if isinstance(answer, tuple) else shown(answer)
        raise AnswerError(f"{when.partition('(')[0]} must return {form}, but {when} gave {found}")
    return answer


def _read(when: str, said: tuple[Any, ...], **outcome: Any) -> Answer:
    observation, info = said
    _check(isinstance(observation, str), "the observation must be a string", when, observation)
    _check(isinstance(info, Mapping), "info must be a dictionary", when, info)
    instruction, success = info.get("instruction", ""), info.get("success")
    _check(isinstance(instruction, str), "info['instruction'] must be a string", when, instruction)
    _check("success" not in info or _is_bool(success), "info['success'] must be True or False", when, success)
    return Answer(
        observation=well_formed(observation),
        anchor=_anchor(when, info.get("anchor", observation)),
        admissible_actions=_admissible(when, info.get("admissible_actions")),
        instruction=well_formed(instruction),
        success=bool(success) if "success" in info else None,
        metrics=_numbers(when, "metrics", info),
        scores=_numbers(when, "scores", info),
        says_anchor="anchor" in info,
        **outcome,
    )


def _anchor(when: str, anchor: Any) -> Hashable:
    """Check an anchor: steps are grouped by its hash, also steps of environments in other processes."""
    if type(anchor) is str:
        return anchor
    for tried, rule in ((hash, "hashable"), (pickle.dumps, "picklable")):  # a tuple is Hashable whatever it holds
        try:
            tried(anchor)
        except Exception as error:  # a class decides itself what its hashing and its pickling raise
            raise AnswerError(f"info['anchor'] must be {rule}, but {when} gave {shown(anchor)}: {error}") from error
    return anchor  # type: ignore[no-any-return]


def _admissible(when: str, actions: Any) -> tuple[str, ...] | None:
    if actions is None:
        return None
    rule = "info['admissible_actions'] must be a list or tuple of strings"
    _check(isinstance(actions, list | tuple), rule, when, actions)
    for action in actions:
        if not isinstance(action, str):
            raise AnswerError(f"{rule}, but {when} gave one with {shown(action)}")
    return tuple(map(well_formed, actions))


def _numbers(when: str, entry: str, info: Mapping[str, Any]) -> Mapping[str, float]:
    """Read an entry of names and numbers, which may be missing."""
    given = info.get(entry, {})
    _check(isinstance(given, Mapping), f"info['{entry}'] must be a dictionary", when, given)
    figures = {name: _number(value) for name, value in given.items()}
    for name, number in figures.items():
        if not isinstance(name, str) or not math.isfinite(number):
            raise AnswerError(
                f"info['{entry}'] must map names to finite numbers, but {when} gave {shown(name)}: {shown(given[name])}"
            )
    return {well_formed(name): number for name, number in figures.items()}


def _number(value: Any) -> float:
    """A number of Python's, NumPy's or torch's as a float; not a number if it is none."""
    if not hasattr(type(value), "__float__") or isinstance(value, str):  # float() would read text, np.str_ too
        return math.nan
    try:
        return float(value)
    except Exception:  # an array of several values, an integer beyond all floats; torch's are RuntimeErrors
        return math.nan


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # NumPy's own too
