"""Packages of the project's extras: tests are skipped only where one is not there at all."""

import importlib
import importlib.util
from types import ModuleType

import pytest


def installed(package: str, extra: str) -> ModuleType:
    """The package, or a skip with the extra's name; a package that is there without what it needs is a failure."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed: the extra {extra}", allow_module_level=True)
    return importlib.import_module(package)
