"""Demonstrations, on the gridworld."""

import itertools
from typing import Any

import gymnasium
import pytest

from gigpo_lightning.demonstrations import Demonstration, Expert, demonstrate
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks
from tests.gridworld_expert import GreedyExpert

TASKS = GridworldTasks(size=4, num_walls=0).panel("train").tasks[:30]


class Listener(GreedyExpert):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.heard: list[str] = []

    def reset(self, instruction: str, observation: str) -> None:
        self.begun.append(instruction)

    def observe(self, action: str) -> None:
        self.heard.append(action)


def show(expert: Expert | None = None, **changes: Any) -> list[Demonstration]:
    arguments: dict[str, Any] = {"detour_probability": 0.0, "max_steps": 8, "seed": 0} | changes
    return list(demonstrate(GridworldEnvironment(), TASKS, expert or GreedyExpert(), **arguments))


def played(shown: list[Demonstration]) -> list[tuple[str, str]]:
    """Advice and what was really done, for every turn that another follows."""
    pairs = itertools.pairwise(shown)
    return [(one.action, other.view.history[-1][1]) for one, other in pairs if other.view.history]


def test_a_turn_has_the_environment_s_tools() -> None:
    class WithTools(GridworldEnvironment):
        def reset(self, **arguments: Any) -> tuple[str, dict[str, Any]]:
            observation, info = super().reset(**arguments)
            return observation, info | {"tools": [{"name": "go"}]}

    shown = demonstrate(WithTools(), TASKS[:1], GreedyExpert(), detour_probability=0.0, max_steps=2, seed=0)
    assert all([tool["function"]["name"] for tool in each.view.tools] == ["go"] for each in shown)


def test_without_detours_the_advice_is_followed() -> None:
    assert all(advice == done for advice, done in played(show()))


def test_with_detours_some_advice_is_not_followed() -> None:
    followed = [advice == done for advice, done in played(show(detour_probability=1.0))]
    assert 0.3 < sum(followed) / len(followed) < 0.95


def test_episodes_differ_in_their_rate_of_detours() -> None:
    shown = show(detour_probability=1.0, max_steps=20)
    lengths = [
        sum(1 for each in shown if each.view.instruction == name) for name in {e.view.instruction for e in shown}
    ]
    assert len(set(lengths)) > 3


def test_states_off_the_way_have_the_experts_advice_too() -> None:
    expert = GreedyExpert()
    for each in show(detour_probability=1.0):
        assert each.action == expert.act(each.view.observation, each.view.admissible_actions or ())


def test_a_turn_shows_all_earlier_ones() -> None:
    shown = show(detour_probability=0.5)
    for one, other in itertools.pairwise(shown):
        if other.view.history:
            assert other.view.history[:-1] == one.view.history
            assert other.view.history[-1][0] == one.view.observation


def test_the_expert_hears_what_was_done_instead_of_its_advice() -> None:
    expert = Listener()
    shown = show(expert, detour_probability=1.0)
    done = [done for _, done in played(shown)]
    assert [action for action in done if action not in expert.heard] == []
    assert len(expert.heard) == len(shown)


def test_every_task_is_played_once() -> None:
    expert = Listener()
    shown = show(expert)
    assert len(expert.begun) == len(TASKS)
    assert sum(not each.view.history for each in shown) == len(TASKS)


def test_no_episode_is_longer_than_asked_for() -> None:
    assert max(len(each.view.history) for each in show(detour_probability=1.0, max_steps=3)) == 2


def test_ignored_actions_are_never_a_detour() -> None:
    shown = show(detour_probability=1.0, ignored_actions=("up", "left"))
    detours = {done for advice, done in played(shown) if advice != done}
    assert detours
    assert not detours & {"up", "left"}


def test_the_same_seed_gives_the_same_demonstrations() -> None:
    assert show(detour_probability=0.7) == show(detour_probability=0.7)


def test_another_seed_gives_other_detours() -> None:
    assert show(detour_probability=0.7) != show(detour_probability=0.7, seed=1)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"detour_probability must be in \[0, 1\], got {probability}"):
        show(detour_probability=probability)


class Secretive(gymnasium.Env[str, str]):
    """Does not say what can be done."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return "a room", {}


def test_an_environment_that_lists_no_actions_is_refused() -> None:
    shown = demonstrate(
        Secretive(), [Task(task_id="a", kind="k")], GreedyExpert(), detour_probability=0.5, max_steps=2, seed=0
    )
    with pytest.raises(ValueError, match=r"environment must list info\['admissible_actions'\]"):
        next(shown)


def test_slips_are_commands_of_an_earlier_turn_that_are_not_admissible_now() -> None:
    shown = show(detour_probability=1.0, slip_probability=1.0, max_steps=12)
    slips = 0
    for one, other in itertools.pairwise(shown):
        if other.view.history and other.view.history[-1][1] not in (one.view.admissible_actions or ()):
            slips += 1
            assert other.view.observation == one.view.observation  # in the gridworld, what fails changes nothing
    assert slips > 5


def test_without_slips_every_command_is_admissible() -> None:
    for one, other in itertools.pairwise(show(detour_probability=1.0, max_steps=12)):
        if other.view.history:
            assert other.view.history[-1][1] in (one.view.admissible_actions or ())


def test_a_slip_probability_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slip_probability must be in \[0, 1\], got 2.0"):
        show(slip_probability=2.0)
