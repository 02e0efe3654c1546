"""Packages that an adapter needs and this project does not bring by itself."""

import importlib
import random
from types import ModuleType

from gigpo_lightning.errors import RunError

_EXTRAS = {"minigrid": "minigrid", "textworld": "alfworld"}
"""Extras of the packages that a configuration names itself, by their module."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package; what it draws while it is imported changes no later draw.

    Args:
        module: Its name.
        extra: Name of this project's extra that brings the package.

    Raises:
        RunError: If it, or a package that it needs, is not installed.
    """
    state = random.getstate()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RunError(f"{module} cannot be imported ({error}): {_cure(extra)}") from error
    finally:
        random.setstate(state)


def cure_for(module: str) -> str:
    """What to install for a module that is not there, with a colon before it; empty where no extra is known to help.

    Example:
        >>> cure_for("nothing_of_ours.worlds")
        ''
    """
    extra = _EXTRAS.get(module.partition(".")[0])
    return f": {_cure(extra)}" if extra else ""


def _cure(extra: str) -> str:
    return f"it needs the packages of the extra {extra!r}. Install them with uv pip install --editable '.[{extra}]'"
