"""Compiling what an update computes: the blocks of a model, and what lies between their products."""

import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Lengths differ from batch to batch. Threads are those of the call: an update has more of them than a rollout.
_OPTIONS: dict[str, Any] = {"dynamic": True, "options": {"cpp.dynamic_threads": True}}


def compiled(function: _Function) -> _Function:
    """The same function, compiled when it is first called."""
    return cast("_Function", torch.compile(function, **_OPTIONS))


def compile_blocks(blocks: list[nn.Module]) -> None:
    """Have a model's blocks compiled when they are first called; blocks that are alike are compiled once.

    Names of weights stay what they are.
    """
    for block in blocks:
        block.compile(**_OPTIONS)


def check_compiler(argument: str) -> None:
    """Refuse to compile where nothing can.

    Raises:
        ValueError: If there is no C++ compiler.
    """
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ValueError(f"{argument} must be false without a C++ compiler on PATH, such as g++, got true")


def uncompiled(function: _Function) -> _Function:
    """The same function, left as it is where it is called by what is compiled."""
    return cast("_Function", cast("Any", torch.compiler).disable(function))
