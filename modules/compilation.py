"""Compiling what an update computes: the blocks of a model."""

import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch._dynamo.config
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compile_blocks(blocks: list[nn.Module]) -> None:
    """Have a model's blocks compiled when they are first called; blocks that are alike are compiled once.

    Names of weights stay what they are. Lengths differ from batch to batch, so they are variables; threads are those of
    the call, because an update has more of them than a rollout. Numbers are rounded wherever they are without
    compilation: a backward pass that makes them again in another precision than the forward pass has them gives
    gradients of another function (cosine .993 with float32's instead of .999, SmolLM2-135M).
    """
    for block in blocks:
        block.compile(dynamic=True, options={"cpp.dynamic_threads": True, "emulate_precision_casts": True})


def check_compiler(argument: str) -> None:
    """Refuse to compile where nothing can.

    Raises:
        ValueError: If there is no C++ compiler, or PyTorch's own is switched off.
    """
    if torch._dynamo.config.disable:
        raise ValueError(f"{argument} must be false where TORCHDYNAMO_DISABLE=1 switches the compiler off, got true")
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ValueError(f"{argument} must be false without a C++ compiler on PATH, such as g++, got true")


def uncompiled(function: _Function) -> _Function:
    """The same function, left as it is where it is called by what is compiled."""
    return cast("_Function", cast("Any", torch.compiler).disable(function))
