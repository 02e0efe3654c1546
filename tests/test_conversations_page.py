"""The page "Conversations and tools": its environment is short, keeps the rules, and is played by calls."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from gigpo_lightning.environments.base import check_environment
from gigpo_lightning.environments.tools import ToolCall, tool_schemas, write_call
from gigpo_lightning.prompts import tool_calls
from gigpo_lightning.prompts.chat import ChatPrompt
from gigpo_lightning.prompts.tool_calls import HermesToolCalls
from gigpo_lightning.rollout import Collector, GenerationRequest, SamplingParameters, ScriptedEngine, make_pool
from tests.documents import ROOT, Desk, files
from tests.prompts.chat_tokenizer import chat_tokenizer

PAGE = ROOT / "docs" / "conversations.md"


@pytest.fixture
def coin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's module."""
    desk = Desk(PAGE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("coin")
    desk.forget()
    sys.modules.pop("coin", None)


def test_a_tool_environment_and_its_tasks_are_forty_lines_of_code() -> None:
    lines = files(PAGE)["coin.py"].splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 40


def test_it_keeps_the_rules_of_environments(coin: ModuleType) -> None:
    for split in ("train", "held_out"):
        for task in coin.DeskTasks().panel(split).tasks:
            check_environment(coin.Desk(), task)


def test_its_functions_are_tools(coin: ModuleType) -> None:
    desk = coin.Desk()
    _, info = desk.reset(options={"task": coin.DeskTasks().panel("train").tasks[0]})
    assert [tool["function"]["name"] for tool in tool_schemas(info["tools"])] == ["take_key", "unlock"]


def test_it_is_won_by_the_calls_that_it_asks_for(coin: ModuleType) -> None:
    tokenizer = chat_tokenizer()
    tasks = coin.DeskTasks().panel("train").tasks[:1]
    drawer = tasks[0].payload["place"][1]
    calls = [ToolCall(name="take_key"), ToolCall(name="unlock", arguments={"drawer": drawer})]

    def script(request: GenerationRequest) -> list[int]:
        call = calls[int(request.request_id.split("/")[-1])]
        return [*tokenizer.encode(f"<tool_call>{write_call(call)}</tool_call>"), tokenizer.end_token_id]

    collector = Collector(
        engine=ScriptedEngine(script),
        pool=make_pool(coin.Desk(), 1, 0),
        prompt=ChatPrompt(reply=HermesToolCalls()),
        tokenizer=tokenizer,
        sampling=SamplingParameters(max_tokens=60),
        max_steps=4,
        seed=0,
    )
    (group,), _ = collector.play(tasks, 1, noise_key=0, name="page")
    (episode,) = group.trajectories
    assert episode.success
    assert [json.loads(step.action)["name"] for step in episode.steps] == ["take_key", "unlock"]


def test_every_form_of_calls_is_in_the_table() -> None:
    text = PAGE.read_text()
    assert {name for name in tool_calls.__all__ if name.endswith("ToolCalls") and name != "ToolCalls"} == {
        line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and "ToolCalls`" in line
    }


def test_every_option_of_the_prompt_is_in_the_table() -> None:
    options = list(ChatPrompt.__init__.__annotations__)
    text = PAGE.read_text()
    assert all(f"| `{option}` |" in text for option in options if option != "return")


def test_its_configurations_are_of_the_same_environment() -> None:
    small, large = (yaml.safe_load(files(PAGE)[name])["data"]["init_args"] for name in ("coin.yaml", "coin_qwen.yaml"))
    assert small["environment"] == large["environment"] == "coin.Desk"
