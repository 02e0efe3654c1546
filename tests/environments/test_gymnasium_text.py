"""Any Gymnasium environment of strings by its id: its seeds are tasks, and its own words for things are understood."""

import copy
import pickle
from functools import partial
from types import MappingProxyType

import gymnasium
import numpy as np
import pytest
import yaml

from gigpo_lightning.cli import build_cli
from gigpo_lightning.environments.answers import AnswerError
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.gymnasium_text import GymnasiumEnvironment
from gigpo_lightning.environments.named_actions import NamedActions
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.errors import RunError
from gigpo_lightning.pool.copies import EnvironmentCopies
from tests.conftest import ROOT
from tests.tiny_training import train_tiny_policy

HALL = f"{__name__}.Hall"


class Hall(gymnasium.Env):
    """A user's own class, which knows seeds and no tasks: walk along a hall to the door, whose place is the seed's."""

    names = "won", "objective", "admissible_commands"

    def __init__(self, length: int = 4, **said) -> None:
        self.length, self.said = length, said

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.door = int(self.np_random.integers(1, self.length)) if seed is not None else 1
        self.place, self.steps = (options or {}).get("start", 0), 0
        return self._look(), self._info() | {"objective": "find the door"}

    def step(self, action):
        self.steps += 1
        self.place = min(self.place + (action == "on"), self.length)
        found = self.place == self.door
        return self._look(), float(found), found, False, self._info() | {"won": found}

    def _look(self):
        return f"step {self.steps} of a hall"

    def _info(self):
        state = {"place": np.int64(self.place), "seen": {"hall"}}
        return {"admissible_commands": ["on", "wait"], "state": state, "steps": self.steps} | self.said


class Scored(Hall):
    """As TextWorld and TALES answer: four values, and the total score."""

    def step(self, action):
        observation, _, ended, _, info = super().step(action)
        return observation, 2 * self.place, ended, {key: value for key, value in info.items() if key != "won"}


class Shouting(gymnasium.ObservationWrapper):
    def __init__(self, env, mark="!"):
        super().__init__(env)
        self.mark = mark

    def observation(self, observation):
        return observation.upper() + self.mark


def place_of(environment, observation, info):
    return environment.place, observation.startswith("step")


def task(**payload):
    return Task(task_id="it", kind="hall", payload=payload)


def begun(*args, payload=None, **options):
    environment = GymnasiumEnvironment(*args, **options)
    return environment, *environment.reset(options={"task": task(**payload or {"seed": 1})})


def test_a_user_s_own_class_keeps_the_rules():
    for each in SeededTasks({"train": [0, 3]}).panel("train").tasks:
        check_environment(GymnasiumEnvironment(HALL), each)


@pytest.fixture
def registered():
    gymnasium.register(id="tests/Hall-v0", entry_point="tests.environments.test_gymnasium_text:Hall")
    yield "tests/Hall-v0"
    del gymnasium.registry["tests/Hall-v0"]


def test_a_registered_id_is_made_with_its_arguments(registered):
    environment, observation, _ = begun(registered, {"length": 7})
    assert observation == "step 0 of a hall"
    assert environment._environment.unwrapped.length == 7


def test_a_module_that_registers_ids_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_halls.py").write_text(
        f"import gymnasium\ngymnasium.register(id='Mine-v0', entry_point={HALL.rpartition('.')[0] + ':Hall'!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert begun("Mine-v0", imports=["my_halls"])[1] == begun("my_halls:Mine-v0")[1] == "step 0 of a hall"
    del gymnasium.registry["Mine-v0"]


def test_the_seed_of_a_task_decides_where_its_episodes_begin():
    doors = [begun(HALL, {"length": 40}, payload={"seed": seed})[0]._environment.door for seed in (1, 1, 2)]
    assert doors[0] == doors[1] != doors[2]


def test_a_task_may_choose_options_arguments_and_the_id():
    payload = {"seed": 0, "options": {"start": 2}, "kwargs": {"length": 9}, "env_id": HALL}
    made = begun(f"{__name__}.Scored", {"length": 3}, payload=payload)[0]._environment
    assert (type(made), made.place, made.length) == (Hall, 2, 9)


def test_an_environment_is_made_once_for_all_tasks_that_want_the_same():
    environment, *_ = begun(HALL)
    first = environment._environment
    environment.reset(options={"task": task(seed=5)})
    assert environment._environment is first
    environment.reset(options={"task": task(seed=5, kwargs={"length": 9})})
    assert environment._environment is not first


def test_the_usual_names_of_the_instruction_the_commands_and_the_outcome_are_understood():
    environment, _, info = begun(HALL, {"length": 2})
    assert info == {"admissible_actions": ["on", "wait"], "instruction": "find the door"}
    *_, info = environment.step("on")
    assert info == {"admissible_actions": ["on", "wait"], "success": True}


def test_an_end_with_a_positive_reward_is_a_success_where_nothing_is_said():
    environment, *_ = begun(f"{__name__}.Scored", {"length": 2})
    _, reward, terminated, truncated, info = environment.step("on")
    assert (reward, terminated, truncated, info["success"]) == (2, True, False, True)


def test_a_total_score_is_taken_apart_into_the_rewards_of_its_steps():
    payload = {"seed": 1, "options": {"start": -2}}
    environment, *_ = begun(f"{__name__}.Scored", {"length": 2}, payload=payload, reward="total")
    assert [environment.step("on")[1] for _ in range(3)] == [-2, 2, 2]
    environment.reset(options={"task": task(seed=1)})
    assert environment.step("wait")[1] == 0  # the total begins again


@pytest.mark.parametrize(
    ("rule", "outcomes"),
    [
        ({"success_reward": 1.5}, [False, False]),
        ({"success_reward": 1.0}, [False, True]),
        ({"success_return": 1.0}, [False, True]),
        ({"success_return": 0.0}, [True, True]),
        ({"success_field": "steps"}, [True, True]),
        ({"success_field": "never"}, [None, None]),
        ({}, [False, True]),
    ],
)
def test_a_rule_says_what_success_is(rule, outcomes):
    environment, *_ = begun(HALL, {"length": 2}, **rule)
    assert [environment.step(action)[4].get("success") for action in ("wait", "on")] == outcomes


def test_the_anchor_is_the_observation_unless_the_info_has_one():
    assert "anchor" not in begun(HALL)[2]
    assert begun(HALL, {"anchor": (1, 2)})[2]["anchor"] == (1, 2)


def test_a_field_of_the_info_can_be_the_anchor_whatever_it_is_made_of():
    environment, _, info = begun(HALL, anchor_field="state")
    assert info["anchor"] == '{"place": 0, "seen": ["hall"]}'
    assert environment.step("wait")[4]["anchor"] == info["anchor"]
    assert environment.step("on")[4]["anchor"] != info["anchor"]


def test_a_function_can_make_the_anchor():
    assert begun(HALL, anchor=place_of)[2]["anchor"] == (0, True)


def test_a_field_that_is_missing_is_no_anchor():
    with pytest.raises(ValueError, match="anchor_field 'stat' must be in every info, but reset gave admissible_comm"):
        begun(HALL, anchor_field="stat")


def test_numbers_of_the_info_can_be_logged():
    environment, *_ = begun(HALL, metrics_fields=["steps"])
    assert environment.step("on")[4]["metrics"] == {"steps": 1}


def test_other_fields_can_be_named():
    info = begun(HALL, {"hint": "look", "verbs": ["on"]}, instruction_field="hint", admissible_field="verbs")[2]
    assert (info["instruction"], info["admissible_actions"]) == ("look", ["on"])


def test_wrappers_go_around_the_environment_the_first_innermost():
    assert begun(HALL, wrappers=[Shouting, partial(Shouting, mark="?")])[1] == "STEP 0 OF A HALL!?"


def test_words_are_given_to_numbered_actions():
    taken = []

    class Numbered(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(3, start=5)

        def reset(self, *, seed=None, options=None):
            return "here", {"won": False}

        def step(self, action):
            taken.append(action)
            return "there", 1.0, False, False, {}

    environment = NamedActions(Numbered(), ["left", "right"])
    assert environment.reset() == ("here", {"won": False, "admissible_actions": ("left", "right")})
    assert environment.step("jump") == ("here", 0.0, False, False, environment.reset()[1])
    assert environment.step(" right\n")[:2] == ("there", 1.0)
    assert environment.step("")[0] == "there"
    assert taken == [6]


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "in \\[1, 2\\]"), (["a", "b", "c"], "in \\[1, 2\\]"), (["a", "a"], "got 'a' twice")],
)
def test_words_that_do_not_fit_the_actions_are_refused(names, said):
    with pytest.raises(ValueError, match=said):
        NamedActions(gymnasium.make("CartPole-v1"), names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env_id": "Hal-v0"}, "env_id must be registered, or the import path of a class, got 'Hal-v0': "),
        ({"env_id": "no_such_module:Hall-v0"}, "env_id must name what can be imported, got 'no_such_module'"),
        ({"env_id": f"{__name__}.Hal"}, "did you mean .*Hall"),
        ({"env_id": HALL, "imports": ["no_such_module"]}, "imports must name what can be imported"),
        ({"env_id": HALL, "success_field": "won", "success_reward": 1.0}, "success_field must be left out where"),
        ({"env_id": HALL, "anchor_field": "state", "anchor": place_of}, "anchor_field must be left out where anchor"),
        ({"env_id": HALL, "success_return": float("nan")}, "success_return must be finite, got nan"),
    ],
)
def test_what_cannot_be_played_is_refused_when_it_is_made(options, said):
    with pytest.raises(ValueError, match=said):
        GymnasiumEnvironment(**options)


@pytest.mark.parametrize(("payload", "said"), [({"sed": 1}, "got {'sed': 1}"), ({}, "got {}")])
def test_a_task_of_other_things_than_seeds_is_refused(payload, said):
    with pytest.raises(ValueError, match=f"payload of task 'it' must have some of seed, .*{said}"):
        GymnasiumEnvironment(HALL).reset(options={"task": task(**payload)})


def test_an_environment_of_numbers_says_what_is_missing():
    with pytest.raises(RunError, match="CartPole-v1 must give observations that are strings, got array"):
        begun("CartPole-v1")


def test_numbered_actions_without_words_say_what_is_missing():
    write = partial(gymnasium.wrappers.TransformObservation, func=str, observation_space=None)
    with pytest.raises(RunError, match=r"actions that are strings, but its action space is Discrete\(2\); name a wrap"):
        begun("CartPole-v1", wrappers=[write])


class Odd(gymnasium.Env):
    """Answers with what it is made with."""

    def __init__(self, answer, info=MappingProxyType({})):
        self.answer, self.info = answer, info

    def reset(self, *, seed=None, options=None):
        return "here", self.info

    def step(self, action):
        return self.answer


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"answer": ("here", "much", False, False, {})}, "the reward must be a finite number"),
        ({"answer": ("here", 0.0, False, False, None)}, "info must be a dictionary, but step"),
        ({"answer": ("here", 0.0, False)}, "step must return"),
        ({"answer": None}, "step must return"),
        ({"answer": None, "info": None}, "info must be a dictionary, but reset gave None"),
    ],
)
def test_a_rule_that_the_environment_breaks_is_named_and_not_the_adapters_trouble_with_it(kwargs, said):
    environment = GymnasiumEnvironment(f"{__name__}.Odd", kwargs=kwargs)
    with pytest.raises(AnswerError, match=said):
        check_environment(environment, task(seed=0))


def test_copies_are_made_before_the_first_reset():
    environment = GymnasiumEnvironment(HALL, wrappers=[Shouting])
    for twin in (pickle.loads(pickle.dumps(environment)), copy.deepcopy(environment)):
        assert twin.reset(options={"task": task(seed=1)})[0] == "STEP 0 OF A HALL!"


def test_a_pool_plays_it():
    copies = EnvironmentCopies(GymnasiumEnvironment(HALL))
    assert copies.carry_out(0, task(seed=1)).observation == "step 0 of a hall"
    assert copies.carry_out(0, "wait").says_success
    copies.close()


def test_a_tiny_policy_trains_on_it():
    environment = GymnasiumEnvironment(HALL, anchor_field="state")
    words = ["on", "wait", "step", "of", "a", "hall", "find", "the", "door", *map(str, range(6))]
    last = train_tiny_policy(environment, SeededTasks({"train": [0, 7]}), words)[-1]
    assert last["rollout/episode_length"] > 1


@pytest.mark.slow
def test_wrappers_and_anchors_of_the_command_line_reach_worker_processes():
    adapter = {
        "class_path": "gigpo_lightning.environments.gymnasium_text.GymnasiumEnvironment",
        "init_args": {
            "env_id": HALL,
            "wrappers": [f"{__name__}.Shouting", {"class_path": f"{__name__}.Shouting", "init_args": {"mark": "?"}}],
            "anchor": f"{__name__}.place_of",
        },
    }
    gridworld = str(ROOT / "configs/gridworld_cpu.yaml")
    engine = "gigpo_lightning.rollout.TransformersEngine"
    words = ["--config", gridworld, "--config", yaml.safe_dump({"data": {"init_args": {"environment": adapter}}})]
    made = build_cli([*words, "--data.init_args.engine", engine], run=False).datamodule.player.environment
    twin = pickle.loads(pickle.dumps(made))
    observation, info = twin.reset(options={"task": task(seed=1)})
    assert observation == "STEP 0 OF A HALL!?"
    assert info["anchor"] == (0, False)
