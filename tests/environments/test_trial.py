"""Random episodes, and what is said of the anchors that they met."""

import json
import random

import pytest

from gigpo_lightning.environments.answers import Answer
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.gridworld import MOVES, GridworldEnvironment, gridworld_panel
from gigpo_lightning.environments.tools import read_call, tool_schemas
from gigpo_lightning.environments.trial import (
    AnchorGroups,
    Trial,
    TrialError,
    example_call,
    play_at_random,
    say_success,
    transcript,
)

TASK = gridworld_panel("train", 3, 0).tasks[0]


def trial(anchors, *, action="go", task="one", success=None, reward=0.0):
    """An episode that went through these states."""
    answers = [
        Answer(observation=str(anchor), anchor=anchor, says_anchor=True, success=success if number else None)
        for number, anchor in enumerate(anchors)
    ]
    actions = (action,) * (len(anchors) - 1)
    return Trial(task=Task(task_id=task, kind="it"), answers=tuple(answers), actions=actions, seconds=1.0)


def test_a_random_episode_takes_admissible_actions_until_its_end():
    played = play_at_random(GridworldEnvironment(), TASK, 200, random.Random(0))
    assert set(played.actions) <= set(MOVES)
    assert played.answers[-1].terminated
    assert played.success
    assert played.total == 10.0
    assert len(played.anchors) == len(played.actions) == len(played.answers) - 1


def test_the_same_seed_draws_the_same_episode():
    one, same, other = (
        play_at_random(GridworldEnvironment(), TASK, 30, random.Random(seed)).actions for seed in (1, 1, 2)
    )
    assert one == same != other


def test_given_actions_take_the_place_of_admissible_ones():
    assert set(play_at_random(GridworldEnvironment(), TASK, 9, random.Random(0), ["sing"]).actions) == {"sing"}


class Breaking(GridworldEnvironment):
    def step(self, action):
        raise KeyError("lost\nkey")


class Talking(GridworldEnvironment):
    def step(self, action):
        return (*super().step(action)[:1], "1", False, False, {})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (Breaking(), "step 1 .*: KeyError: 'lost"),
        (Talking(), "step 1 .*: AnswerError: the reward must be a finite num"),
    ],
)
def test_what_an_episode_breaks_on_is_said_with_its_step(environment, said):
    with pytest.raises(TrialError, match=said):
        play_at_random(environment, TASK, 3, random.Random(0))


def test_a_tool_is_called_with_arguments_of_its_types():
    parameters = {
        "type": "object",
        "properties": {
            "way": {"enum": ["up"]},
            "steps": {"type": "integer", "minimum": 2},
            "loud": {"type": "boolean"},
        },
        "required": ["way", "steps"],
    }
    (tool,) = tool_schemas([{"name": "move", "parameters": parameters}])
    call = read_call(example_call(tool, random.Random(0)))
    assert (call.name, call.arguments) == ("move", {"way": "up", "steps": 2})
    assert json.loads(example_call(tool, random.Random(0)))


def test_groups_are_of_one_task_and_leave_out_first_steps():
    # later states: b, c of the first; b of the second; b of another task
    groups = AnchorGroups.of([trial("abcd"), trial("abx"), trial("ab!", task="other")])
    assert groups.sizes == {1: 2, 2: 1}
    assert groups.num_steps == 4
    assert groups.alone == 0.5
    assert groups.num_states == (3 + 2) / 2
    assert groups.table() == "2 of 1, 1 of 2"


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([trial("ab"), trial("ab")], "episodes end with their first step"),
        ([trial("aaaa"), trial("aaaa")], "all the same: every step of a task is compared with every other"),
        ([trial([1, 2, 3, 4]), trial([1, 5, 6, 7])], "all different: 100 % of the later steps are alone"),
        ([trial("abca"), trial("abca")], "100 % of the later steps are compared with others, in groups of 2.0"),
        ([trial("abca", action="no such command")], "no action is known"),
    ],
)
def test_what_the_groups_mean_is_said(trials, said):
    assert said in AnchorGroups.of(trials).verdict()


@pytest.mark.parametrize(
    ("successes", "said"),
    [
        ([None, None], "info['success'] never came: an episode without it has failed"),
        ([None, False], "0 of 2 random episodes succeeded, 0 ended by themselves"),
        ([True, True], "2 of 2 random episodes succeeded, 0 ended by themselves; is info['success'] right?"),
    ],
)
def test_what_is_known_of_success_is_said(successes, said):
    assert say_success([trial("ab", success=each) for each in successes]).startswith(said)


def test_a_transcript_shows_what_was_said_and_done_and_the_anchors():
    first = Answer(observation="a hall\nand a door", anchor=7, says_anchor=True, instruction="leave")
    last = Answer(observation="out", anchor=8, says_anchor=True, success=True, reward=1.5, terminated=True)
    played = Trial(task=Task(task_id="x", kind="it"), answers=(first, last), actions=("open",), seconds=1.0)
    assert transcript(played) == [
        "task 'x': leave",
        "    a hall",
        "    and a door",
        "    anchor: 7",
        "  1 > open",
        "    out   [reward 1.5 terminated success]",
        "    anchor: 8",
    ]


def test_a_long_transcript_is_cut_and_says_where_the_anchor_is_the_observation():
    answers = tuple(Answer(observation="x" * 50, anchor="x") for _ in range(5))
    played = Trial(task=Task(task_id="x", kind="it"), answers=answers, actions=("go",) * 4, seconds=1.0)
    lines = transcript(played, num_steps=1, longest=5)
    assert lines[1:] == [
        "    xxxxx...",
        "  1 > go",
        "    xxxxx...   [reward 0]",
        "    ... 3 more steps",
        "    (info has no anchor: each observation is the anchor)",
    ]
