"""What an environment answers is read by the same rules in a rollout, in demonstrations and by check_environment."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from gigpo_lightning.demonstrations import demonstrate
from gigpo_lightning.environments.answers import AnswerError, read_reset, read_step
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.pool.copies import EnvironmentCopies

TASK = Task(task_id="a", kind="k")
OUTCOME = ("seen", 1.0, False, False, {})
Info = dict[str, Any]


def step_with(**info: Any) -> tuple[Any, ...]:
    """A step's answer with this info."""
    return (*OUTCOME[:4], info)


class Unhashed:
    """Cannot be hashed, by an error that is no TypeError."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash today")


WRONG = {
    "a string": ("seen", "step must return (observation, reward, terminated, truncated, info), but step('go') gave"),
    "old gym": ((*OUTCOME[:3], {}), "but step('go') gave 4 values: ('seen', 1.0, False, {})"),
    "a number": ((7, *OUTCOME[1:]), "the observation must be a string, but step('go') gave 7"),
    "bytes": ((b"x", *OUTCOME[1:]), "the observation must be a string, but step('go') gave b'x'"),
    "no info": ((*OUTCOME[:4], None), "info must be a dictionary, but step('go') gave None"),
    "nan": (("seen", float("nan"), False, False, {}), "the reward must be a finite number, but step('go') gave nan"),
    "text": (("seen", "1.0", False, False, {}), "the reward must be a finite number, but step('go') gave '1.0'"),
    "too large": (("seen", 10**400, False, False, {}), "the reward must be a finite number, but step('go') gave 1000"),
    "beyond float32": (("seen", -1e308, False, False, {}), "must be in [-1e30, 1e30], but step('go') gave -1e+308"),
    "terminated": (("seen", 1.0, 1, False, {}), "terminated must be True or False, but step('go') gave 1"),
    "truncated": (("seen", 1.0, False, None, {}), "truncated must be True or False, but step('go') gave None"),
    "success": (step_with(success="False"), "info['success'] must be True or False, but step('go') gave 'False'"),
    "one": (step_with(success=1), "info['success'] must be True or False, but step('go') gave 1"),
    "instruction": (step_with(instruction=3), "info['instruction'] must be a string, but step('go') gave 3"),
    "lone action": (
        step_with(admissible_actions="go"),
        "info['admissible_actions'] must be a list or tuple of strings, but step('go') gave 'go'",
    ),
    "an array of actions": (step_with(admissible_actions=np.array(["go"])), "must be a list or tuple of strings, but"),
    "numbers": (step_with(admissible_actions=["go", 2]), "a list or tuple of strings, but step('go') gave one with 2"),
    "anchor": (step_with(anchor=(1, ["a"])), "must be hashable, but step('go') gave (1, ['a']): unhashable type"),
    "another anchor": (step_with(anchor=Unhashed()), "must be hashable, but step('go') gave <"),
    "a local anchor": (step_with(anchor=lambda: 0), "info['anchor'] must be picklable, but step('go') gave <function"),
    "metrics": (step_with(metrics=0.5), "info['metrics'] must be a dictionary, but step('go') gave 0.5"),
    "metric's name": (step_with(metrics={1: 2}), "must map names to finite numbers, but step('go') gave 1: 2"),
    "metric's value": (step_with(metrics={"score": "3"}), "finite numbers, but step('go') gave 'score': '3'"),
    "metrics together": (step_with(metrics={"score": np.zeros(2)}), "but step('go') gave 'score': array([0., 0.])"),
    "scores": (step_with(scores=[0.5]), "info['scores'] must be a dictionary, but step('go') gave [0.5]"),
    "no score": (step_with(scores={"progress": None}), "info['scores'] must map names to finite numbers, but step("),
    "no metric": (step_with(metrics={"score": np.float32("nan")}), "but step('go') gave 'score': np.float32(nan)"),
}  # fmt: skip
every_wrong_answer = pytest.mark.parametrize(("answer", "rule"), WRONG.values(), ids=WRONG)


class Says(gymnasium.Env[str, str]):
    """Answers every step as it is told; only the name of its answer is pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        return "start", {"admissible_actions": ["go"]}

    def step(self, action: str) -> Any:
        return WRONG[self.name][0]


class Walker:
    """Goes on."""

    def reset(self, instruction: str, observation: str) -> None:
        pass

    def act(self, observation: str, admissible_actions: object) -> str:
        return "go"

    def observe(self, action: str) -> None:
        pass


@every_wrong_answer
def test_a_broken_rule_is_named_with_the_call_and_the_value(answer: object, rule: str) -> None:
    with pytest.raises(AnswerError) as error:
        read_step("go", answer)
    assert rule in str(error.value)


@pytest.mark.parametrize("name", WRONG)
def test_rollouts_demonstrations_and_the_check_say_the_same(name: str) -> None:
    rule, copies = WRONG[name][1], EnvironmentCopies(Says(name))
    copies.carry_out(0, TASK)
    assert rule in copies.carry_out(0, "go").failure
    with pytest.raises(ValueError) as told:  # noqa: PT011  the rule may hold what a pattern may not
        list(demonstrate(Says(name), [TASK], Walker(), detour_probability=0.0, max_steps=2, seed=0))
    assert rule in str(told.value)
    with pytest.raises(ValueError) as told:  # noqa: PT011
        check_environment(Says(name), TASK)
    assert rule in str(told.value)


def test_a_failure_by_a_broken_rule_names_the_class_and_shows_no_traceback() -> None:
    copies = EnvironmentCopies(Says("one"))
    copies.carry_out(0, TASK)
    failure = copies.carry_out(0, "go").failure
    assert failure == f"{Says.__module__}.Says: info['success'] must be True or False, but step('go') gave 1"


@pytest.mark.parametrize("answer", ["seen", ("seen",), ("seen", {}, 0)])
def test_a_reset_of_other_than_two_values_is_refused(answer: object) -> None:
    with pytest.raises(AnswerError, match=r"reset must return \(observation, info\), but reset gave "):
        read_reset(answer)


def test_an_endless_value_is_not_shown_whole() -> None:
    with pytest.raises(AnswerError) as error:
        read_reset((b"x" * 10_000_000, {}))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [True, np.True_, 2, 0.5, np.float32(0.5), np.int64(2), np.array(2.0)], ids=repr)
def test_numbers_of_numpy_are_numbers(value: Any) -> None:
    answer = read_step("go", ("seen", value, np.False_, np.bool_(True), {"metrics": {"score": value}}))
    assert (answer.reward, answer.metrics) == (float(value), {"score": float(value)})
    assert [type(number) for number in (answer.reward, answer.metrics["score"])] == [float, float]
    assert (answer.terminated, answer.truncated) == (False, True)


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])], ids=["numpy", "torch"])
def test_several_numbers_are_no_reward(value: Any) -> None:
    with pytest.raises(AnswerError, match=r"the reward must be a finite number, but step\('go'\) gave "):
        read_step("go", ("seen", value, False, False, {}))


@pytest.mark.parametrize(("info", "expected"), [({}, None), ({"success": np.True_}, True), ({"success": False}, False)])
def test_whether_success_is_said_is_known(info: Info, expected: bool | None) -> None:
    assert read_step("go", (*OUTCOME[:4], info)).success is expected


def test_no_text_of_an_answer_has_half_a_character() -> None:
    half = "rose \ud83d"
    info = {"instruction": half, "admissible_actions": (half,), "metrics": {half: 1.0}, "anchor": "here"}
    answer = read_reset((half, info))
    assert {answer.observation, answer.instruction, *answer.admissible_actions, *answer.metrics} == {"rose ?"}


def test_what_is_read_can_be_sent_to_another_process() -> None:
    answer = read_reset(("seen", {"anchor": frozenset({("a", 1)})}))
    assert pickle.loads(pickle.dumps(answer)) == answer
