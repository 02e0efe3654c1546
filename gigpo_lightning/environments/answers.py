"""What an environment may answer to ``reset`` and ``step``: one reading for rollouts, demonstrations and checks."""

import math
import pickle
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
        success: Whether the episode has succeeded; None where the info does not say.
        metrics: The environment's own figures of the episode so far.
        reward: Of the step; 0 after a reset.
        terminated: Gymnasium's.
        truncated: Gymnasium's.
    """

    observation: str
    anchor: Hashable
    admissible_actions: tuple[str, ...] | None = None
    instruction: str = ""
    success: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def read_reset(answer: object) -> Answer:
    """Read what ``reset`` returned.

    Raises:
        AnswerError: If it breaks a rule.
    """
    return _read("reset", _values("reset", answer, _RESET, 2))


def read_step(action: str, answer: object) -> Answer:
    """Read what ``step(action)`` returned.

    Raises:
        AnswerError: If it breaks a rule.
    """
    when = f"step({shown(action)})"
    observation, reward, terminated, truncated, info = _values(when, answer, _STEP, 5)
    number = _number(reward)
    if number is None:
        raise AnswerError(f"the reward must be a finite number, but {when} gave {shown(reward)}")
    if abs(number) > LARGEST_REWARD:
        raise AnswerError(f"the reward must be in [-1e30, 1e30], but {when} gave {shown(reward)}")
    ends = {"terminated": terminated, "truncated": truncated}
    for name, value in ends.items():
        if not _is_bool(value):
            raise AnswerError(f"{name} must be True or False, but {when} gave {shown(value)}")
    return _read(when, (observation, info), reward=number, **{name: bool(value) for name, value in ends.items()})


def _values(when: str, answer: object, form: str, count: int) -> tuple[Any, ...]:
    if not isinstance(answer, tuple) or len(answer) != count:
        found = f"{len(answer)} values: {shown(answer)}" if isinstance(answer, tuple) else shown(answer)
        raise AnswerError(f"{when.partition('(')[0]} must return {form}, but {when} gave {found}")
    return answer


def _read(when: str, said: tuple[Any, ...], **outcome: Any) -> Answer:
    observation, info = said
    if not isinstance(observation, str):
        raise AnswerError(f"the observation must be a string, but {when} gave {shown(observation)}")
    if not isinstance(info, Mapping):
        raise AnswerError(f"info must be a dictionary, but {when} gave {shown(info)}")
    instruction, success = info.get("instruction", ""), info.get("success")
    if not isinstance(instruction, str):
        raise AnswerError(f"info['instruction'] must be a string, but {when} gave {shown(instruction)}")
    if "success" in info and not _is_bool(success):
        raise AnswerError(f"info['success'] must be True or False, but {when} gave {shown(success)}")
    return Answer(
        observation=well_formed(observation),
        anchor=_anchor(when, info.get("anchor", observation)),
        admissible_actions=_admissible(when, info.get("admissible_actions")),
        instruction=well_formed(instruction),
        success=bool(success) if "success" in info else None,
        metrics=_metrics(when, info.get("metrics", {})),
        **outcome,
    )


def _anchor(when: str, anchor: Any) -> Hashable:
    """Check an anchor: steps are grouped by its hash, also steps of environments in other processes."""
    if type(anchor) is str:
        return anchor
    try:
        hash(anchor)  # a tuple is Hashable whatever it holds
    except Exception as error:  # a class decides itself what its hashing raises
        raise AnswerError(f"info['anchor'] must be hashable, but {when} gave {shown(anchor)}: {error}") from error
    try:
        pickle.dumps(anchor)
    except Exception as error:  # and its pickling
        raise AnswerError(f"info['anchor'] must be picklable, but {when} gave {shown(anchor)}: {error}") from error
    return anchor  # type: ignore[no-any-return]


def _admissible(when: str, actions: object) -> tuple[str, ...] | None:
    if actions is None:
        return None
    if not isinstance(actions, list | tuple):
        raise AnswerError(
            f"info['admissible_actions'] must be a list or tuple of strings, but {when} gave {shown(actions)}"
        )
    for action in actions:
        if not isinstance(action, str):
            raise AnswerError(
                f"info['admissible_actions'] must be a list or tuple of strings, but {when} gave one with "
                f"{shown(action)}"
            )
    return tuple(map(well_formed, actions))


def _metrics(when: str, metrics: object) -> Mapping[str, float]:
    if not isinstance(metrics, Mapping):
        raise AnswerError(f"info['metrics'] must be a dictionary, but {when} gave {shown(metrics)}")
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        number = _number(value)
        if not isinstance(name, str) or number is None:
            raise AnswerError(
                f"info['metrics'] must map names to finite numbers, but {when} gave {shown(name)}: {shown(value)}"
            )
        figures[well_formed(name)] = number
    return figures


def _number(value: Any) -> float | None:
    """A number of Python's, NumPy's or torch's as a float; None if it is none, or not finite."""
    if not hasattr(type(value), "__float__") or isinstance(value, str):  # float() would read text, np.str_ too
        return None
    try:
        number = float(value)
    except Exception:  # an array of several values, an integer beyond all floats; torch's are RuntimeErrors
        return None
    return number if math.isfinite(number) else None


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # NumPy's own too
