"""Tasks, panels, and the check of environments."""

import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

from gigpo_lightning.environments.base import Task, TaskPanel, check_environment

TASK = Task(task_id="a", kind="k")
Info = dict[str, Any]


class Faulty(gymnasium.Env[str, str]):
    """An environment that keeps every rule but those it is told to break."""

    def __init__(self, **faults: Any) -> None:
        self.faults = faults
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        self.resets += 1
        if "reset" in self.faults:
            return self.faults["reset"]  # type: ignore[no-any-return]
        return self._say("start")

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if "step" in self.faults:
            return self.faults["step"]  # type: ignore[no-any-return]
        observation, info = self._say(f"did {action}")
        outcome = {"reward": 0.0, "terminated": False, "truncated": False} | self.faults
        return observation, outcome["reward"], outcome["terminated"], outcome["truncated"], info

    def _say(self, words: str) -> tuple[str, Info]:
        info = {"admissible_actions": ["wait", "go"], "success": False, "anchor": words} | self.faults.get("info", {})
        return self.faults.get("observation", f"{words} {self.resets if 'forgetful' in self.faults else ''}"), info


def test_an_environment_that_keeps_the_rules_passes() -> None:
    check_environment(Faulty(), TASK)


def test_an_environment_that_says_only_what_it_must_passes_and_is_asked_for_success(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Terse(Faulty):
        def _say(self, words: str) -> tuple[str, Info]:
            return words, {"success": False} if words == "start" else {}  # what reset says is no outcome

    globals()["Terse"] = Terse  # pickle looks classes up by their names
    Terse.__qualname__ = "Terse"
    check_environment(Terse(), TASK)
    assert "task 'a': info['success'] did not come in a trial of 8 steps" in caplog.text


def test_a_reset_without_options_is_refused_with_what_it_must_accept() -> None:
    class Optionless(Faulty):
        def reset(self, *, seed: int | None = None) -> tuple[str, Info]:  # type: ignore[override]
            return self._say("start")

    said = r"reset takes options, as reset\(self, \*, seed=None, options=None\) does.*Optionless\.reset does not"
    with pytest.raises(ValueError, match=said):
        check_environment(Optionless(), TASK)


def test_an_environment_that_says_whether_it_succeeded_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    check_environment(Faulty(), TASK)
    assert caplog.text == ""


def test_the_environment_itself_is_never_reset() -> None:
    environment = Faulty()
    check_environment(environment, TASK)
    assert environment.resets == 0


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"generator": (n for n in "no")}, "picklable before its first reset"),
        ({"reset": "start"}, r"reset must return \(observation, info\), but reset gave 'start'"),
        ({"step": ("a", 0.0, False, {})}, r"step must return \(observation, reward, terminated, truncated, info\)"),
        ({"observation": 7}, "the observation must be a string, but reset gave 7"),
        ({"reset": ("start", None)}, "info must be a dictionary, but reset gave None"),
        (
            {"info": {"anchor": ["a"]}},
            r"info\['anchor'\] must be hashable, but reset gave \['a'\]: unhashable type: 'list'",
        ),
        ({"info": {"anchor": (1, ["a"])}}, r"info\['anchor'\] must be hashable, but reset gave"),
        ({"info": {"instruction": 3}}, r"info\['instruction'\] must be a string, but reset gave 3"),
        ({"info": {"success": "no"}}, r"info\['success'\] must be True or False, but reset gave 'no'"),
        ({"info": {"success": True}}, r"info\['success'\] must be False after reset"),
        ({"info": {"admissible_actions": [1]}}, r"info\['admissible_actions'\] must be a list or tuple of strings"),
        ({"info": {"admissible_actions": "wait"}}, r"info\['admissible_actions'\] must be a list or tuple of strings"),
        ({"info": {"metrics": 0.5}}, r"info\['metrics'\] must be a dictionary, but reset gave 0.5"),
        (
            {"info": {"metrics": {"score": float("nan")}}},
            r"must map names to finite numbers, but reset gave 'score': nan",
        ),
        ({"info": {"metrics": {"score": "high"}}}, r"must map names to finite numbers, but reset gave 'score': 'high'"),
        ({"reward": None}, "the reward must be a finite number, but step"),
        ({"reward": float("nan")}, "the reward must be a finite number, but step"),
        ({"terminated": 1}, "terminated must be True or False, but step"),
        ({"truncated": None}, "truncated must be True or False, but step"),
        ({"forgetful": True}, "the same task and commands must give the same episode, but reset gave"),
    ],
)
def test_each_broken_rule_is_named(faults: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_environment(Faulty(**faults), TASK)


def test_an_environment_that_exits_does_not_end_the_check_as_if_all_were_well() -> None:
    with pytest.raises(ValueError, match=r"must not end its process, but called sys.exit\(0\)"):
        check_environment(Leaving(), TASK)


class Leaving(Faulty):
    """Leaves at the first step."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        sys.exit(0)


def test_a_step_that_remembers_the_last_episode_is_found() -> None:
    with pytest.raises(ValueError, match=r"but step 1 \('wait'\) gave"):
        check_environment(Growing(), TASK)


class Growing(Faulty):
    """Counts its steps over all its episodes."""

    num_steps = 0

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.num_steps += 1
        return str(self.num_steps), 0.0, False, False, {}


class Forgetting(Faulty):
    """Says where it is, but not where its episode ended."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        return ("the end", 0.0, True, False, {}) if action else super().step(action)


def test_an_environment_that_sets_the_anchor_sets_it_at_the_end_too() -> None:
    message = r"must come with every answer, the last one too, .* but reset has one and step 1 \('wait'\) has none"
    with pytest.raises(ValueError, match=message):
        check_environment(Forgetting(), TASK)


def test_two_tasks_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="task_id must be unique in a panel, got 'a' twice"):
        TaskPanel.from_tasks([TASK, TASK])


@pytest.mark.parametrize(
    "change",
    [
        lambda task: Task(task_id="b", kind=task.kind),
        lambda task: Task(task_id=task.task_id, kind="other"),
        lambda task: Task(task_id=task.task_id, kind=task.kind, fingerprint="other"),
    ],
)
def test_a_panels_hash_covers_ids_kinds_and_fingerprints(change: Callable[[Task], Task]) -> None:
    assert TaskPanel.from_tasks([change(TASK)]).sha256 != TaskPanel.from_tasks([TASK]).sha256


def test_a_panels_hash_does_not_cover_paths() -> None:
    moved = Task(task_id="a", kind="k", payload={"game_file": "elsewhere"})
    assert TaskPanel.from_tasks([moved]).sha256 == TaskPanel.from_tasks([TASK]).sha256


def test_a_panels_hash_covers_the_order() -> None:
    other = Task(task_id="b", kind="k")
    assert TaskPanel.from_tasks([TASK, other]).sha256 != TaskPanel.from_tasks([other, TASK]).sha256
