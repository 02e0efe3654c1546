"""A world's state as an anchor: equal states give equal texts, in every process."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Set
from enum import Enum
from typing import Any

import numpy as np

_PLAIN = (str, int, float, bool, type(None))


def state_key(state: object, ignored: Collection[str] = ()) -> str:
    """The text that stands for a state: a string as it is, anything else as JSON with sorted keys.

    Args:
        state: Numbers, strings, lists, sets, dictionaries, dataclasses or NumPy arrays, and what they hold.
        ignored: Top-level keys that are left out, such as a counter that would make all states different.

    Raises:
        ValueError: If something in it has no text that is the same in every process.

    Example:
        >>> state_key({"room": 2, "step_count": 7, "seen": {"key", "door"}}, ignored=["step_count"])
        '{"room": 2, "seen": ["door", "key"]}'
    """
    if isinstance(state, str):
        return state
    plain = _plain(state)
    if isinstance(plain, dict):
        plain = {key: value for key, value in plain.items() if key not in ignored}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Set):
        return sorted(map(_plain, value), key=json.dumps)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    kind = type(value)
    raise ValueError(
        f"a state must be made of numbers, texts, lists, sets and dictionaries, got a {kind.__module__}."
        f"{kind.__qualname__}; name a function that makes a text of it"
    )


def _key(key: object) -> str:
    return key if isinstance(key, str) else json.dumps(_plain(key))
