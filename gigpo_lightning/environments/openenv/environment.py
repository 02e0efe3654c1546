"""An environment on a server that speaks OpenEnv's wire; its state is the anchor."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from gigpo_lightning.environments.anchors import state_key
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.gymnasium_text import ADMISSIBLE
from gigpo_lightning.environments.openenv.actions import ActionForm, RefusedError, served_tools, string_fields
from gigpo_lightning.environments.openenv.wire import Message, Session, Wire
from gigpo_lightning.environments.tools import Tool

_STATE: Message = {"type": "state"}
_LIST_TOOLS: Message = {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}}
_NO_TEXT = ("metadata", "done", "reward")


class OpenEnvEnvironment(gymnasium.Env[str, str]):
    """Plays episodes on an OpenEnv server, each on a session of its own.

    A task's payload is what the server's ``reset`` is given, such as ``seed``. The server's ``state`` is the anchor:
    after every step it is asked for together with the step, so that every OpenEnv environment gets step credit. Where
    a server has no state beyond the ignored fields, the observation is the anchor.

    An action is written as the server's schema wants it: into its one field, as an object in JSON, or, where the
    server offers tools (MCP), as a tool call. Actions of several fields may also be calls of one tool, ``act``, in
    ``info["tools"]``. If the server refuses an action, or fails on it, the message is the observation; the step is
    worth 0 and the episode goes on. ``info["metrics"]`` counts such steps.

    An episode has succeeded if it ends with a positive reward. If the connection is lost, the episode begins again on
    a new one. A server without a WebSocket is asked over HTTP: it has one world, so episodes must not run side by side.

    Args:
        url: The server's address, such as ``http://localhost:8000``.
        action_field: Field of an action that the policy's text goes into; default: the schema's only required field.
        observation_field: Field of an observation that the policy sees; default: the only text of the schema, or all
            fields as JSON.
        state_ignored: Fields of the state that are no part of the anchor, because they never come twice.
        success_field: Field of the observation, its metadata or the state that says whether the episode has succeeded.
        instruction_field: Field of the first observation, its metadata or the state that says what is asked for.
        admissible_field: Field of the observation or its metadata that lists the actions that do something; default:
            the usual names, such as ``legal_actions``.
        deadline: Seconds that a reset or a step may take, connecting and all attempts included. The default stays
            below the 60 s after which a worker process counts as hung.

    Raises:
        ValueError: If the address is none, or the deadline is not above 0.
    """

    waits = True

    def __init__(
        self,
        url: str,
        action_field: str | None = None,
        observation_field: str | None = None,
        state_ignored: Sequence[str] = ("episode_id", "step_count"),
        *,
        success_field: str | None = None,
        instruction_field: str | None = None,
        admissible_field: str | None = None,
        deadline: float = 45.0,
    ) -> None:
        self.wire = Wire(url, deadline)
        self.action_field = action_field
        self.observation_field = observation_field
        self.state_ignored = (state_ignored,) if isinstance(state_ignored, str) else tuple(state_ignored)
        self.success_field = success_field
        self.instruction_field = instruction_field
        self.admissible_field = admissible_field
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self._session: Session | None = None
        self._form = ActionForm()
        self._texts: tuple[str, ...] = ()
        self._observation, self._anchor = "", ""
        self._choices: list[str] | None = None
        self._counts = {"refused_actions": 0, "server_errors": 0}

    def warm_up(self) -> None:
        """Read the server's schema, once a process.

        Raises:
            RunError: If the server does not answer.
            ValueError: If it has no such ``action_field``.
        """
        schema = self.wire.schema()
        self._form = ActionForm.of(_part(schema, "action"), self.action_field)
        self._texts = tuple(string_fields(_part(schema, "observation"), _NO_TEXT))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Reset the server's world with the payload of ``options["task"]``.

        Raises:
            ValueError: If there is no task, or the server refuses its payload.
            RunError: If the server cannot be reached.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task):
            raise ValueError(f"options must have a 'task', got {options!r}")
        if self._session is None:
            self.warm_up()
            self._session = Session(self.wire)
        messages: list[Message] = [{"type": "reset", "data": dict(task.payload)}, _STATE]
        answers = self._session.begin([*messages, _LIST_TOOLS] if self._form.calls_tools else messages)
        said, state = answers[:2]
        if said.get("type") == "error":
            raise ValueError(
                f"the environment server refused to reset with the payload of task {task.task_id!r}, "
                f"{dict(task.payload)}: {_refusal(said['data'])}"
            )
        self._counts = dict.fromkeys(self._counts, 0)
        observed = _observed(said["data"])
        self._observation = self._text(observed)
        info = self._info(said["data"], state)
        if self.instruction_field is not None:
            info["instruction"] = str(_found(self.instruction_field, said["data"], state))
        if tools := self._tools(answers[2:]):
            info["tools"] = list(tools)
        return self._observation, info

    def step(self, action: str) -> tuple[str, Any, Any, bool, dict[str, Any]]:
        """Send the action, and ask for the state after it.

        Raises:
            LostError: If the connection is lost.
        """
        assert self._session is not None, "step comes after reset"
        try:
            data = self._form.read(action)
        except RefusedError as error:
            return self._refused("refused_actions", str(error), _STATE_IS_KNOWN)
        said, state = self._session.ask([{"type": "step", "data": data}, _STATE])
        if said.get("type") == "error":
            failed = said["data"].get("code") == "EXECUTION_ERROR"
            return self._refused("server_errors" if failed else "refused_actions", _refusal(said["data"]), state)
        answer = said["data"]
        self._observation = self._text(_observed(answer))
        given, done = answer.get("reward"), answer.get("done", False)
        reward = 0.0 if given is None else float(given) if isinstance(given, bool) else given
        info = self._info(answer, state)
        if self.success_field is None:
            info["success"] = bool(done and isinstance(reward, int | float) and reward > 0)
        elif (success := _found(self.success_field, answer, state)) is not None:
            info["success"] = bool(success)
        return self._observation, reward, done, False, info

    def close(self) -> None:
        """Leave the server."""
        if self._session is not None:
            self._session.close()

    def _refused(self, counted: str, why: str, state: Message) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """A step that the server did not take, or failed on."""
        self._counts[counted] += 1
        if counted == "server_errors":
            self.wire.note_failure(why)
        info: dict[str, Any] = {"anchor": self._key(state), "metrics": self._metrics()}
        if self._choices is not None:
            info["admissible_actions"] = self._choices
        if self.success_field is None:
            info["success"] = False
        return f"The action was refused: {why}\n{self._observation}", 0.0, False, False, info

    def _info(self, answer: Mapping[str, Any], state: Message) -> dict[str, Any]:
        self._anchor = self._observation
        self._choices = self._admissible(answer)
        info: dict[str, Any] = {"anchor": self._key(state), "metrics": self._metrics()}
        return info if self._choices is None else info | {"admissible_actions": self._choices}

    def _metrics(self) -> dict[str, float]:
        return {name: float(number) for name, number in self._counts.items()}

    def _key(self, state: Message) -> str:
        """The anchor: the state, or where there is none the observation; a refused step leaves it as it was."""
        known = {} if state.get("type") != "state" else state["data"]
        if any(name not in self.state_ignored for name in known):
            self._anchor = state_key(known, self.state_ignored)
        return self._anchor

    def _text(self, observed: Mapping[str, Any]) -> str:
        """What the policy sees of an observation."""
        if self.observation_field is not None:
            if self.observation_field not in observed:
                raise ValueError(
                    f"observation_field must be a field of every observation, got {self.observation_field!r}, but one "
                    f"has {', '.join(observed) or 'nothing'}"
                )
            return _as_text(observed[self.observation_field])
        if self._form.calls_tools and "tool_name" in observed:
            return _of_call(observed)
        if len(self._texts) == 1 and isinstance(observed.get(self._texts[0]), str):
            return str(observed[self._texts[0]])
        shown = {name: value for name, value in observed.items() if name not in _NO_TEXT} or observed.get("metadata")
        return _as_text(shown) if shown else ""

    def _admissible(self, answer: Mapping[str, Any]) -> list[str] | None:
        """The actions that do something, where the server lists some."""
        observed = {**_metadata(answer), **_observed(answer)}
        names = ADMISSIBLE if self.admissible_field is None else (self.admissible_field,)
        for name in names:
            if isinstance(observed.get(name), list):
                return [_as_text(each) for each in observed[name]]
        return list(self._form.choices) or None

    def _tools(self, listed: Sequence[Message]) -> Sequence[Tool]:
        return served_tools(listed[0]["data"].get("result")) if listed else self._form.tools


_STATE_IS_KNOWN: Message = {"type": "known"}


def _part(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = schema.get(name)
    return found if isinstance(found, dict) else {}


def _observed(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer's observation; some servers write its fields beside the reward."""
    found = answer.get("observation", answer)
    return found if isinstance(found, dict) else {"observation": found}


def _metadata(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    found = answer.get("metadata") or _observed(answer).get("metadata")
    return found if isinstance(found, dict) else {}


def _found(name: str, answer: Mapping[str, Any], state: Message) -> Any:
    """The value of a field, wherever it stands; None if it is nowhere."""
    for place in (_observed(answer), _metadata(answer), state.get("data", {})):
        if name in place:
            return place[name]
    return None


def _of_call(observed: Mapping[str, Any]) -> str:
    """What a tool said, or why it failed."""
    error = observed.get("error")
    if error:
        return _as_text(error.get("message", error) if isinstance(error, dict) else error)
    result = observed.get("result")
    content = result.get("content") if isinstance(result, dict) else None
    if isinstance(content, list) and all(isinstance(each, dict) and "text" in each for each in content):
        return "\n".join(str(each["text"]) for each in content)
    return _as_text(result)


def _refusal(data: Mapping[str, Any]) -> str:
    """Why a server refused something, in one line."""
    errors = data.get("errors") or ()
    said = [
        f"{'.'.join(map(str, each.get('loc', ())))}: {each.get('msg')}" for each in errors if isinstance(each, dict)
    ]
    return "; ".join(said) or " ".join(str(data.get("message", data)).split())


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
