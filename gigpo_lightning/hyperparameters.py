"""A run's configuration as hyperparameters: flat, short names, and values that every logger can show."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Hyperparameter = bool | int | float | str


def flattened(configuration: Mapping[str, Any]) -> dict[str, Hyperparameter]:
    """Every setting under a name such as ``model/policy/hidden_size``.

    A class stands under the name of what it is used for, and its arguments below that. Classes of a list, such as
    callbacks, are told apart by their own names. Empty settings are left out, and other lists become text.

    Example:
        >>> policy = {"class_path": "modules.TinyPolicy", "init_args": {"hidden_size": 64, "max_length": None}}
        >>> flattened({"seed_everything": 0, "model": {"init_args": {"policy": policy}}})
        {'seed_everything': 0, 'model/policy': 'modules.TinyPolicy', 'model/policy/hidden_size': 64}
    """
    return dict(_settings(configuration, ""))


def _settings(value: Any, name: str) -> Iterator[tuple[str, Hyperparameter]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            is_own = key in ("class_path", "init_args", "dict_kwargs")  # of a class, which has its place's name
            yield from _settings(each, name if is_own else f"{name}/{key}".lstrip("/"))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for key, each in zip(_names(value), value, strict=True):
            yield from _settings(each, f"{name}/{key}")
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif value is not None and value not in ([], {}, ()):
        yield name, str(value)


def _names(entries: Sequence[Any]) -> list[str]:
    """A name for each entry of a list: its class's, with a number from the second of that class on."""
    names: list[str] = []
    for number, each in enumerate(entries):
        path = each.get("class_path") if isinstance(each, Mapping) else None
        name = str(number) if path is None else str(path).rpartition(".")[2]
        same = sum(known == name or known.startswith(f"{name}_") for known in names)
        names.append(f"{name}_{same + 1}" if same else name)
    return names
