"""JSON from elsewhere, read strictly: of a key that stands twice Python takes the last, and NaN is no JSON at all."""

import json
from typing import Any


def load_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: If it is not JSON, is nested too deep, or an object in it has a key twice; the message says what.

    Example:
        >>> load_json('{"query": "a", "query": "b"}')
        Traceback (most recent call last):
        ValueError: the key 'query' stands twice
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
