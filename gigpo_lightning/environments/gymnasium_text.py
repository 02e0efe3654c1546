"""Any Gymnasium environment of strings, chosen by its id; the seed of an episode comes from its task."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal

import gymnasium

from gigpo_lightning.environments.anchors import state_key
from gigpo_lightning.environments.answers import read_reset, read_step
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.extras import cure_for
from gigpo_lightning.errors import RuleError, check_range
from gigpo_lightning.suggestions import near_class
from gigpo_lightning.text import shown

Wrap = Callable[[gymnasium.Env], gymnasium.Env]
Anchor = Callable[[gymnasium.Env, str, Mapping[str, Any]], Any]  # Hashable: the command line would want it annotated

PAYLOAD = ("seed", "options", "kwargs", "env_id")
SUCCESS = ("success", "is_success", "won")
ADMISSIBLE = ("admissible_actions", "admissible_commands", "valid_actions", "available_actions", "legal_actions")
INSTRUCTION = ("instruction", "objective", "mission", "task_description")
_OURS = ("tools", "metrics", "scores")  # an environment that gives them means our contract
_NOT_TEXT = (
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiDiscrete,
    gymnasium.spaces.MultiBinary,
    gymnasium.spaces.Box,
    gymnasium.spaces.Dict,
    gymnasium.spaces.Tuple,
)


class GymnasiumEnvironment(gymnasium.Env[str, str]):
    """An environment that ``gymnasium.make`` or a class makes, reset with the seed of each task.

    A task's payload may have ``seed`` and ``options`` (what ``reset`` is given), ``kwargs`` (added to ours) and
    ``env_id`` (in place of ours). The instruction, the admissible actions and the outcome are read from the usual
    places of ``info``: an environment that names them ``mission``, ``admissible_commands`` or ``won`` needs no option.
    An answer of four values, as old versions of Gym and TextWorld give, is read as ``(observation, reward, terminated,
    info)``.

    Success is, unless an option says otherwise, what ``info`` says under ``success``, ``is_success`` or ``won``;
    where it says nothing, an episode that terminates with a positive reward has succeeded.

    Args:
        env_id: A registered id, such as ``MiniGrid-Empty-5x5-v0`` or ``my_worlds:Maze-v0`` (which imports ``my_worlds``
            first), or the import path of a class.
        kwargs: What the environment is made with.
        imports: Modules that register ids when they are imported.
        wrappers: Wrappers of observations, actions or rewards, the innermost first; the last must read and write text.
        success_field: Key of ``info`` that says whether the episode has succeeded.
        success_reward: An episode has succeeded if it terminates with at least this reward of its last step.
        success_return: An episode has succeeded when its rewards so far add up to at least this.
        reward: What the environment's rewards are: of the ``step``, or the ``total`` of the episode so far, as
            TextWorld's and TALES's scores are.
        anchor_field: Key of ``info`` that holds the state; it may be made of lists and dictionaries.
        anchor: Function of the environment (unwrapped), the observation and ``info`` that returns the state. Without
            this and ``anchor_field``, the anchor is ``info["anchor"]``, or the observation where there is none.
        instruction_field: Key of ``info`` that says, after ``reset``, what is asked for.
        admissible_field: Key of ``info`` that lists the commands that do something.
        metrics_fields: Keys of ``info`` that hold numbers to be logged.

    Raises:
        ValueError: If there is no such environment, or two rules of success or two anchors are given.
    """

    def __init__(
        self,
        env_id: str,
        kwargs: dict[str, Any] | None = None,
        *,
        imports: list[str] | None = None,
        wrappers: list[Wrap] | None = None,
        success_field: str | None = None,
        success_reward: float | None = None,
        success_return: float | None = None,
        reward: Literal["step", "total"] = "step",
        anchor_field: str | None = None,
        anchor: Anchor | None = None,
        instruction_field: str | None = None,
        admissible_field: str | None = None,
        metrics_fields: list[str] | None = None,
    ) -> None:
        rules = {"success_field": success_field, "success_reward": success_reward, "success_return": success_return}
        _at_most_one(rules)
        for name in ("success_reward", "success_return"):
            if rules[name] is not None:
                check_range(name, rules[name], -math.inf)  # type: ignore[arg-type]
        _at_most_one({"anchor_field": anchor_field, "anchor": anchor})
        if reward not in ("step", "total"):
            raise ValueError(f"reward must be 'step' or 'total', got {reward!r}")
        self.env_id = env_id
        self.kwargs = dict(kwargs or {})
        self.imports = tuple(imports or ())
        self.wrappers = tuple(map(_alone, wrappers or ()))
        self.success_field = success_field
        self.success_reward = success_reward
        self.success_return = success_return
        self.reward = reward
        self.anchor_field = anchor_field
        self.anchor = anchor
        self.instruction_field = instruction_field
        self.admissible_field = admissible_field
        self.metrics_fields = tuple(metrics_fields or ())
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self._environment: gymnasium.Env[Any, Any] | None = None
        self._made_of: object = None
        self._return = 0.0
        self.warm_up()

    def warm_up(self) -> None:
        """Import what makes the environment.

        Raises:
            ValueError: If a module or an environment is not there.
        """
        for module in self.imports:
            _import("imports", module)
        maker_of(self.env_id)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the episode of ``options["task"]``.

        Raises:
            ValueError: If the task's payload has nothing to begin with, or something unknown.
            RuleError: If the environment does not speak text.
        """
        super().reset(seed=seed)
        payload = _payload((options or {}).get("task"), options)
        environment = self._made(payload.get("env_id", self.env_id), self.kwargs | dict(payload.get("kwargs", {})))
        given = {name: payload[name] for name in ("seed", "options") if name in payload}
        answer = environment.reset(**given)
        observation, info = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, {})
        self._check_text(environment, observation)
        read_reset((observation, _nothing_of(info)))
        self._return = 0.0
        said = self._info("reset", observation, info)
        said.pop("success", None)  # of the episode before, in some worlds
        instruction = _first(info, self.instruction_field, INSTRUCTION, str)
        return observation, said if instruction is None else said | {"instruction": instruction}

    def step(self, action: str) -> tuple[str, Any, Any, Any, dict[str, Any]]:
        """Send the action as it is; reward and ends come back as the environment gave them.

        Raises:
            AnswerError: If the environment's answer breaks a rule.
        """
        assert self._environment is not None, "step comes after reset"
        answer: Any = self._environment.step(action)
        if isinstance(answer, tuple) and len(answer) == 4:
            answer = (*answer[:3], False, answer[3])
        if not isinstance(answer, tuple) or len(answer) != 5:
            read_step(action, answer)
        elif type(answer[1]) not in (float, int) or type(answer[4]) is not dict:  # all is read again by who asked
            read_step(action, (*answer[:4], _nothing_of(answer[4])))
        observation, reward, terminated, truncated, info = answer
        if self.reward == "total":
            reward, self._return = reward - self._return, reward
        else:
            self._return += reward
        said = self._info(f"step({shown(action)})", observation, info)
        success = self._success(reward, bool(terminated), info)
        if success is not None:
            said["success"] = success
        return observation, reward, terminated, truncated, said

    def close(self) -> None:
        """Close the environment that was made."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _made(self, env_id: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
        """The environment of an id, made again only if the id or the arguments are others."""
        if self._environment is None or self._made_of != (env_id, kwargs):
            self.close()
            environment = maker_of(env_id)(**kwargs)
            for wrap in self.wrappers:
                environment = wrap(environment)
            self._environment, self._made_of = environment, (env_id, kwargs)
        return self._environment

    def _check_text(self, environment: gymnasium.Env[Any, Any], observation: object) -> None:
        if not isinstance(observation, str):
            raise RuleError(
                f"{self.env_id} must give observations that are strings, got {shown(observation)}; name a wrapper that "
                "writes them as text under wrappers"
            )
        space = getattr(environment, "action_space", None)
        if isinstance(space, _NOT_TEXT):
            raise RuleError(
                f"{self.env_id} must take actions that are strings, but its action space is {shown(space)}; name a "
                "wrapper that reads words under wrappers, such as gigpo_lightning.environments.named_actions."
                "NamedActions"
            )

    def _success(self, reward: Any, terminated: bool, info: Mapping[str, Any]) -> bool | None:
        """Whether the episode has succeeded; None if a field that was named is not there."""
        if self.success_field is not None:
            return bool(info[self.success_field]) if self.success_field in info else None
        if self.success_return is not None:
            return bool(self._return >= self.success_return)
        if self.success_reward is not None:
            return terminated and bool(reward >= self.success_reward)
        for name in SUCCESS:
            if name in info:
                return bool(info[name])
        return terminated and bool(reward > 0)

    def _info(self, when: str, observation: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """What of the environment's info is ours."""
        said = {name: info[name] for name in _OURS if name in info}
        admissible = _first(info, self.admissible_field, ADMISSIBLE, list | tuple)
        if admissible is not None:
            said["admissible_actions"] = admissible
        if self.metrics_fields:
            found = {name: info[name] for name in self.metrics_fields if name in info}
            said["metrics"] = {**said.get("metrics", {}), **found}
        if self.anchor is not None:
            assert self._environment is not None, "it has just answered"
            said["anchor"] = self.anchor(self._environment.unwrapped, observation, info)
        elif self.anchor_field is not None:
            if self.anchor_field not in info:
                held = ", ".join(map(str, info)) or "nothing"
                raise ValueError(f"anchor_field {self.anchor_field!r} must be in every info, but {when} gave {held}")
            said["anchor"] = state_key(info[self.anchor_field])
        elif "anchor" in info:
            said["anchor"] = info["anchor"]
        return said


def maker_of(env_id: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    """What makes an environment of an id or of the import path of a class, with its keyword arguments.

    Raises:
        ValueError: If there is none; the message says what may be meant.
    """
    module, colon, name = env_id.partition(":")
    if colon:
        _import("env_id", module)
    known = name if colon else env_id
    if known not in gymnasium.registry and "." in known and "/" not in known and not colon:
        return _class(env_id)
    try:
        spec = gymnasium.spec(known)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"env_id must be registered, or the import path of a class, got {env_id!r}: {error} The modules that "
            "register ids are named under imports"
        ) from error
    if isinstance(spec.entry_point, str):
        _import("env_id", spec.entry_point.partition(":")[0])

    def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(known, disable_env_checker=True, **kwargs)  # it warns of spaces, which we do not read

    return make


def _class(path: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    try:
        found = locate(path)
    except ErrorDuringImport as error:
        raise ValueError(f"env_id must name a class that can be imported, got {path!r}: {error.value}") from error
    if not callable(found) or not (inspect.isclass(found) or inspect.isfunction(found)):
        raise ValueError(
            f"env_id must be registered with Gymnasium, or the import path of a class, got {path!r}{near_class(path)}"
        )
    return found


def _import(argument: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{argument} must name what can be imported, got {module!r}: {error}{cure_for(module)}"
        ) from error


def _alone(wrap: Wrap) -> Wrap:
    """A wrapper without the command line's parser, with which the environment could not be pickled."""
    if isinstance(wrap, partial):
        for kind in wrap.args:
            if isinstance(kind, type):
                return partial(kind, **wrap.keywords)
    return wrap


def _nothing_of(info: object) -> object:
    """An info without its fields, which may mean other things than ours; what is no info stays as it is."""
    return {} if isinstance(info, Mapping) else info


def _payload(task: object, options: object) -> Mapping[str, Any]:
    if not isinstance(task, Task):
        raise ValueError(f"options must have a 'task', got {options!r}")
    unknown = [name for name in task.payload if name not in PAYLOAD]
    if unknown or not task.payload:
        raise ValueError(
            f"the payload of task {task.task_id!r} must have some of {', '.join(PAYLOAD)}, and nothing else, got "
            f"{shown(dict(task.payload))}"
        )
    return task.payload


def _first(info: Mapping[str, Any], field: str | None, usual: Sequence[str], kind: Any) -> Any:
    """The value of the field, or of the first usual one that is of the kind; None if there is none."""
    if field is not None:
        return info.get(field)
    return next((info[name] for name in usual if isinstance(info.get(name), kind)), None)


def _at_most_one(given: Mapping[str, object]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{named[0]} must be left out where {named[1]} is given, got both")
