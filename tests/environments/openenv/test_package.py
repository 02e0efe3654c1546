"""Real servers of the ``openenv`` package, of two kinds: what we play was not written for us alone."""

import pytest

from gigpo_lightning.check_command import carry_out
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.openenv import OpenEnvEnvironment, OpenEnvTasks
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.splits import check_source
from gigpo_lightning.environments.tools import ToolCall, write_call
from gigpo_lightning.prompts.base import ParsedAction
from gigpo_lightning.prompts.text import CompactTextPrompt
from tests.environments.openenv.served import PACKAGE, served
from tests.tiny_training import train_tiny_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package openenv has not been fetched: tools/environments.py"),
]

ADAPTER = "gigpo_lightning.environments.openenv.OpenEnvEnvironment"
SEEDS = SeededTasks({"train": [0, 5]})
WORDS = ["on", "back", "place", "at", "time", *map(str, range(10))]
SEED_1 = Task(task_id="1", kind="hall", payload={"seed": 1})


@pytest.fixture(scope="module")
def text():
    with served("text") as url:
        yield url


@pytest.fixture(scope="module")
def tools():
    with served("tools") as url:
        yield url


def walk(steps):
    return write_call(ToolCall(name="walk", arguments={"steps": steps}))


class Calls(CompactTextPrompt):
    """A tiny policy's words as calls of a tool."""

    def parse(self, response, view):
        return ParsedAction(action=walk({"on": 1, "back": -1}.get(response.strip(), 0)), valid=True)


def test_a_server_of_one_text_field_keeps_the_rules(text, capsys):
    check_environment(OpenEnvEnvironment(text), SEED_1)
    assert carry_out([ADAPTER, "--environment.url", text, "--actions", "on, back", "--max_steps", "8"]) == 0
    assert "later steps are compared with others" in capsys.readouterr().out


def test_its_state_is_the_anchor_although_its_observations_have_a_clock(text):
    environment = OpenEnvEnvironment(text)
    environment.reset(options={"task": SEED_1})
    said = [environment.step(action) for action in ("on", "wait", "break", "on", "on")]
    assert [each[4]["anchor"] for each in said] == [f'{{"place": {place}}}' for place in (1, 1, 1, 2, 3)]
    assert said[2][0].startswith("The action was refused: the floor gives way\nplace 1")
    assert (said[4][1], said[4][2], said[4][4]["success"]) == (1.0, True, True)
    environment.close()


def test_a_tiny_policy_trains_on_it(text):
    train_tiny_policy(OpenEnvEnvironment(text), SEEDS, WORDS)


def test_its_tasks_are_listed_where_the_package_has_a_task_api(text):
    source = OpenEnvTasks(text)
    if source.wire.fetch("GET", "/list_environments")[0] == 404:
        pytest.skip("this version of the package has no task API")
    check_source(source, ("train", "test"))
    assert [len(source.panel(split)) for split in ("train", "test")] == [6, 2]
    check_environment(OpenEnvEnvironment(text), source.panel("test").tasks[1])


def test_a_server_of_tools_keeps_the_rules_and_takes_calls(tools):
    check_environment(OpenEnvEnvironment(tools), SEED_1)
    environment = OpenEnvEnvironment(tools)
    observation, info = environment.reset(options={"task": SEED_1})
    assert observation == "place 0"
    (tool,) = info["tools"]
    assert tool["function"]["name"] == "walk"
    assert tool["function"]["parameters"]["required"] == ["steps"]
    observation, *_, info = environment.step(walk(1))
    assert (observation, info["anchor"]) == ("place 1", '{"place": 1}')
    assert "Unknown tool" in environment.step(write_call(ToolCall(name="fly")))[0]
    assert "refused: an action must be a tool call in JSON" in environment.step("walk on")[0]
    assert environment.step(walk(2))[1:3] == (1.0, True)
    environment.close()


def test_a_tiny_policy_trains_on_calls(tools):
    train_tiny_policy(OpenEnvEnvironment(tools), SEEDS, WORDS, prompt=Calls())
