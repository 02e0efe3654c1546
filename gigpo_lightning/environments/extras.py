"""Packages that an adapter needs and this project does not bring by itself."""

import importlib
import random
from types import ModuleType

from gigpo_lightning.errors import RunError


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
        raise RunError(
            f"{module} cannot be imported ({error}): it needs the packages of the extra {extra!r}. Install them with "
            f"uv pip install --editable '.[{extra}]'"
        ) from error
    finally:
        random.setstate(state)
