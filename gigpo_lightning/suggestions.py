"""What a misspelt key, class or module may have been meant to be."""

import inspect
import pkgutil
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from pydoc import ErrorDuringImport, locate

from jsonargparse._parameter_resolvers import get_signature_parameters

_NEAR = 0.6  # share of letters that two names have in common, as difflib counts
_AS_NEAR = 0.1  # by which another suggestion may be worse than the best
OURS = ("gigpo_lightning", "modules", "datamodules", "callbacks")


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """The names that are near to a word, as the end of a message; empty if there is none.

    Example:
        >>> did_you_mean("groupsize", ["group_size", "max_steps"])
        '; did you mean group_size?'
    """
    names = {each.lower(): each for each in known if each != word}
    near = {each: SequenceMatcher(None, word.lower(), each).ratio() for each in names}
    best = max(near.values(), default=0.0)
    found = [
        names[each] for each in sorted(near, key=near.__getitem__)[: -most - 1 : -1] if near[each] >= _enough(best)
    ]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _enough(best: float) -> float:
    return max(_NEAR, best - _AS_NEAR)


def near_setting(class_path: str, setting: str) -> str:
    """The settings of a class that are near to one that it has not; ``setting`` may have dots, as of a group's key."""
    made = locate(class_path)
    *groups, name = setting.split(".")
    for group in groups:
        made = _kind_of(made, group)
    end = did_you_mean(name, settings_of(made))
    return end.replace("did you mean ", f"did you mean {'.'.join(groups)}.") if end and groups else end


def settings_of(made: object) -> list[str]:
    """The names of the arguments of a class or function, those that it passes on to others among them."""
    if inspect.isclass(made):
        return [each.name for each in get_signature_parameters(made, "__init__")]
    return list(inspect.signature(made).parameters) if callable(made) else []


def near_class(class_path: str) -> str:
    """Why a class path names nothing, as far as its nearest relatives show it: the end of a message.

    Example:
        >>> near_class("gigpo_lightning.algorithm.GIGPO")
        '; did you mean gigpo_lightning.algorithm.GiGPO?'
    """
    module, _, name = class_path.rpartition(".")
    if not module:
        return ""
    if (found := _module(module)) is not None:
        end = did_you_mean(name, (each for each, value in vars(found).items() if callable(value)))
        return end.replace("did you mean ", f"did you mean {module}.")
    parent, _, missing = module.rpartition(".")
    while parent and _module(parent) is None:
        parent, _, missing = parent.rpartition(".")
    if not parent:
        end = did_you_mean(missing, [*OURS, *(each.partition(".")[0] for each in sys.modules)])
        return f"; the folder that holds {missing} must be on PYTHONPATH{end}"
    siblings = [each.name for each in pkgutil.iter_modules(getattr(_module(parent), "__path__", []))]
    end = did_you_mean(missing, siblings)
    return end.replace("did you mean ", f"did you mean {parent}.")


def missing_methods(class_path: str, protocol: str) -> str:
    """The methods that a class lacks of one of our protocols, or has with other arguments; empty if it has them all."""
    made, wanted = locate(class_path), _protocol(protocol)
    if made is None or wanted is None:
        return ""
    methods = [name for name, value in vars(wanted).items() if inspect.isfunction(value) and not name.startswith("_")]
    lacking = [name for name in methods if not callable(getattr(made, name, None))]
    if lacking:
        return f"it has no method {', '.join(lacking)}"
    other = [name for name in methods if _arguments(getattr(made, name)) != _arguments(getattr(wanted, name))]
    asked = ", ".join(f"{name}({', '.join(_arguments(getattr(wanted, name)))})" for name in other)
    return f"its methods must be {asked}, with these annotations" if asked else ""


def _module(name: str) -> object | None:
    try:
        found: object | None = locate(name)
    except ErrorDuringImport:
        return None
    return found


def _kind_of(made: object, argument: str) -> object:
    """The dataclass that an argument is a group of."""
    parameters = get_signature_parameters(made, "__init__") if inspect.isclass(made) else []
    return next((each.annotation for each in parameters if each.name == argument), None)


def _protocol(name: str) -> type | None:
    for module in [value for key, value in sys.modules.items() if key.partition(".")[0] in OURS]:
        found = getattr(module, name, None)
        if isinstance(found, type) and getattr(found, "_is_protocol", False):
            return found
    return None


def _arguments(method: object) -> list[str]:
    return list(inspect.signature(method).parameters) if callable(method) else []
