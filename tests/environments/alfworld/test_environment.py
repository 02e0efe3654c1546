"""The environment's contract, on generated games."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.environments.alfworld import AlfworldEnvironment
from gigpo_lightning.environments.alfworld import engine as engine_module
from gigpo_lightning.environments.base import Task, check_environment

pytestmark = pytest.mark.alfworld

SIMPLE = "pick_and_place_simple"
HEAT = "pick_heat_then_place_in_recep"


def start(task: Task, **arguments: Any) -> tuple[AlfworldEnvironment, str, dict[str, Any]]:
    environment = AlfworldEnvironment(**arguments)
    return environment, *environment.reset(options={"task": task})


def walkthrough(task: Task) -> list[str]:
    commands: list[str] = json.loads(Path(task.payload["game_file"]).read_text())["walkthrough"]
    return commands


def outcomes(task: Task, **arguments: Any) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    environment, _, _ = start(task, **arguments)
    return [environment.step(command) for command in walkthrough(task)]


@pytest.mark.parametrize("anchor", ["observation", "state"])
@pytest.mark.slow
def test_it_keeps_the_rules_of_environments(tasks: dict[str, Task], anchor: str) -> None:
    check_environment(AlfworldEnvironment(anchor=anchor), tasks[HEAT])  # type: ignore[arg-type]


@pytest.mark.slow
def test_only_the_winning_step_is_rewarded(tasks: dict[str, Task]) -> None:
    rewards = [reward for _, reward, _, _, _ in outcomes(tasks[HEAT])]
    assert rewards == [0.0] * (len(rewards) - 1) + [10.0]


@pytest.mark.slow
def test_the_reward_of_winning_can_be_chosen(tasks: dict[str, Task]) -> None:
    assert outcomes(tasks[HEAT], success_reward=1.0)[-1][1] == 1.0


def test_winning_terminates_and_nothing_truncates(tasks: dict[str, Task]) -> None:
    ends = [(terminated, truncated) for _, _, terminated, truncated, _ in outcomes(tasks[HEAT])]
    assert ends == [(False, False)] * (len(ends) - 1) + [(True, False)]


def test_success_is_told_with_the_winning_step(tasks: dict[str, Task]) -> None:
    successes = [info["success"] for _, _, _, _, info in outcomes(tasks[SIMPLE])]
    assert successes == [False] * (len(successes) - 1) + [True]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.slow
def test_the_observation_is_the_engines_feedback_without_outer_space(tasks: dict[str, Task], fast: bool) -> None:
    task = tasks[HEAT]
    environment, observation, _ = start(task, fast=fast)
    slot = engine_module.EngineSlot(fast=False)
    expected = [slot.start(task.payload["game_file"]).feedback, *(slot.step(c)[0].feedback for c in walkthrough(task))]
    said = [observation, *(environment.step(command)[0] for command in walkthrough(task))]
    assert said == [text.strip() for text in expected]


def test_the_instruction_is_the_goal_alone(tasks: dict[str, Task]) -> None:
    _, observation, info = start(tasks[SIMPLE])
    assert observation.endswith(f"Your task is to: {info['instruction']}.")


def test_the_admissible_actions_are_the_engines_own(tasks: dict[str, Task]) -> None:
    environment, _, info = start(tasks[SIMPLE])
    slot = engine_module.EngineSlot(fast=False)
    assert info["admissible_actions"] == tuple(slot.start(tasks[SIMPLE].payload["game_file"])["admissible_commands"])
    assert "help" in info["admissible_actions"]
    environment.close()


def test_a_senseless_command_changes_nothing(tasks: dict[str, Task]) -> None:
    environment, _, info = start(tasks[SIMPLE], anchor="state")
    observation, reward, terminated, _, after = environment.step("eat the sofa")
    assert (observation, reward, terminated) == ("Nothing happens.", 0.0, False)
    assert after["anchor"] == info["anchor"]


def test_the_default_anchor_is_the_observation(tasks: dict[str, Task]) -> None:
    _, observation, info = start(tasks[SIMPLE])
    assert info["anchor"] == observation


def test_the_state_anchor_forgets_the_way_there(tasks: dict[str, Task]) -> None:
    environment, _, info = start(tasks[SIMPLE], anchor="state")
    one, other = [action for action in info["admissible_actions"] if action.startswith("go to ")][:2]
    direct = environment.step(other)[4]["anchor"]
    environment.reset(options={"task": tasks[SIMPLE]})
    for command in (one, "look", "inventory", "help"):
        environment.step(command)
    assert environment.step(other)[4]["anchor"] == direct


def test_the_state_anchor_tells_full_hands_from_empty_ones(tasks: dict[str, Task]) -> None:
    task = tasks[HEAT]
    commands = walkthrough(task)
    environment, _, _ = start(task, anchor="state")
    taken = next(number for number, command in enumerate(commands) if command.startswith("take "))
    before = [environment.step(command)[4]["anchor"] for command in commands[:taken]][-1]
    assert environment.step(commands[taken])[4]["anchor"] != before


def test_the_state_anchor_tells_games_apart(tasks: dict[str, Task]) -> None:
    keys = {start(task, anchor="state")[2]["anchor"] for task in tasks.values()}
    assert len(keys) == len(tasks)


def test_copies_made_before_the_first_reset_play_alike(tasks: dict[str, Task]) -> None:
    original = AlfworldEnvironment()
    copies = [original, pickle.loads(pickle.dumps(original)), copy.deepcopy(original)]
    starts = [environment.reset(options={"task": tasks[SIMPLE]}) for environment in copies]
    assert starts[0] == starts[1] == starts[2]


def test_environments_in_one_process_do_not_disturb_each_other(tasks: dict[str, Task]) -> None:
    alone = outcomes(tasks[HEAT])
    environments = [start(task)[0] for task in (tasks[HEAT], tasks[SIMPLE], tasks[HEAT])]
    together = []
    for command in walkthrough(tasks[HEAT]):
        environments[1].step("look")
        together.append(environments[0].step(command))
        environments[2].step("inventory")
    assert together == alone


def test_a_closed_environment_lends_its_engine_to_the_next(tasks: dict[str, Task]) -> None:
    first, _, _ = start(tasks[SIMPLE])
    slot = first._slot
    first.close()
    assert start(tasks[HEAT])[0]._slot is slot


def test_one_environment_plays_one_game_after_another_on_one_engine(tasks: dict[str, Task]) -> None:
    environment, _, _ = start(tasks[SIMPLE])
    slot = environment._slot
    environment.reset(options={"task": tasks[HEAT]})
    assert environment._slot is slot


def test_the_engines_library_is_copied_without_its_symbols(tasks: dict[str, Task]) -> None:
    from fast_downward import interface

    start(tasks[SIMPLE])
    assert Path(interface.DOWNWARD_LIB_PATH).stat().st_size < 4 << 20


def test_a_library_of_another_format_is_left_whole() -> None:
    assert engine_module._loadable_part(b"\xcf\xfa\xed\xfe of another system") == b"\xcf\xfa\xed\xfe of another system"


def test_an_unknown_anchor_is_refused() -> None:
    # in a process of its own: here the types are checked first
    code = "from gigpo_lightning.environments.alfworld import AlfworldEnvironment as E; E(anchor='text')"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "ValueError: anchor must be 'observation' or 'state', got 'text'" in done.stderr


@pytest.mark.parametrize("options", [None, {}, {"task": Task(task_id="a", kind="k")}])
def test_a_reset_without_a_game_is_refused(options: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match="must have a 'task' whose payload names a 'game_file'"):
        AlfworldEnvironment().reset(options=options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pddl_problem", ""),
        ("pddl_problem", "(define (problem"),
        ("grammar", "grammar :: "),
        ("pddl_domain", "(define"),
    ],
)
def test_a_broken_game_is_named_and_the_next_one_plays(
    tasks: dict[str, Task], tmp_path: Path, key: str, value: str
) -> None:
    content = json.loads(Path(tasks[SIMPLE].payload["game_file"]).read_text())
    broken = tmp_path / "game.tw-pddl"
    broken.write_text(json.dumps(content | {key: value}))
    environment = AlfworldEnvironment()
    with pytest.raises(ValueError, match=f"game file {broken} cannot be played"):
        environment.reset(options={"task": Task(task_id="a", kind="k", payload={"game_file": str(broken)})})
    assert environment.reset(options={"task": tasks[SIMPLE]})[1]["instruction"]


def test_importing_the_package_needs_none_of_the_optional_ones() -> None:
    code = (
        "import sys, gigpo_lightning.environments.alfworld as a; a.AlfworldEnvironment(); a.SearchingExpert();"
        "assert not {'textworld', 'alfworld', 'fast_downward', 'tatsu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    task = Task(task_id="a", kind="k", payload={"game_file": "game.tw-pddl"})
    engine_module._idle.clear()
    with pytest.raises(ImportError, match=r"extra 'alfworld'.*make install"):
        AlfworldEnvironment().reset(options={"task": task})
