"""The tables of docs/configuration.md: every key is one, and none that a class takes is missing."""

import inspect
import re
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import callbacks
from datamodules import RolloutDataModule
from gigpo_lightning.rollout import RolloutPlayer
from modules import GiGPOModule
from tests.documents import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text()
SOURCES = [path for package in ("gigpo_lightning", "modules", "datamodules", "callbacks", "tools")
           for path in (ROOT / package).rglob("*.py")]  # fmt: skip


def first_column(heading: str) -> set[str]:
    """What the first cells of the table with this heading name."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return {name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def parameters(kind: type) -> set[str]:
    """The keys of a class; those of a DataModule that plays are the player's as well."""
    own = set(inspect.signature(kind).parameters)
    return (own - {"player"}) | parameters(RolloutPlayer) if "player" in own else own


def test_every_key_of_the_trainer_is_one() -> None:
    assert first_column("| `trainer.`") <= parameters(Trainer)


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("| `model.init_args.` of", GiGPOModule), ("| `data.init_args.` of", RolloutDataModule)],
)
def test_the_keys_of_a_class_are_all_there(heading: str, kind: type) -> None:
    assert first_column(heading) == parameters(kind)


def test_every_callback_is_there() -> None:
    standard = first_column("| `callbacks.` | what | how")
    others = first_column("| `callbacks.` | what |\n")
    assert standard == {kind.__name__ for kind in callbacks.STANDARD}
    named = {name for name in callbacks.__all__ if isinstance(getattr(callbacks, name), type)}
    assert standard | others | {"Preemption"} == named


def test_every_environment_variable_that_is_read_is_there() -> None:
    read = r"(?:environ(?:\.get|\.setdefault)?[\[(]|environment(?:\.setdefault\(|\[))\s*\"([A-Z][A-Z_0-9]+)\""
    found = {name for path in SOURCES for name in re.findall(read, path.read_text())}
    found |= set(
        re.findall(r'^    "([A-Z_0-9]+)": "', (Path(ROOT) / "gigpo_lightning/engines/vllm.py").read_text(), re.M)
    )
    assert {"GIGPO_LOG_LEVEL", "VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "XDG_CACHE_HOME"} <= found
    named = set(re.findall(r"`([A-Z][A-Z_0-9]+)`", PAGE))
    assert found - named - {"VLLM_PLUGINS", "VIRTUAL_ENV"} == set()  # set for a process of our own, whoever asks
