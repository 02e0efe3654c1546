"""Episodes over OpenEnv's wire, of a server that was written without the package: its state gives step credit."""

import copy
import json
import pickle
import threading
import time

import numpy as np
import pytest

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.openenv import OpenEnvEnvironment, OpenEnvTasks
from gigpo_lightning.environments.openenv.wire import LostError
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.splits import check_source
from gigpo_lightning.errors import RunError
from gigpo_lightning.pool.worker import waits
from gigpo_lightning.prompts.text import CompactTextPrompt, compact_text_markers
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters, ScriptedEngine
from gigpo_lightning.trajectory import StepTable
from modules import TinyPolicy
from tests.environments.openenv.by_hand import TEXT, World, serve
from tests.scripted_run import ScriptedSync
from tests.tiny_training import train_tiny_policy

WORDS = ["on", "back", "place", "at", "time", *map(str, range(10))]
CALM = {"refused_actions": 0.0, "server_errors": 0.0}


def task(**payload):
    return Task(task_id="it", kind="hall", payload=payload)


@pytest.fixture
def begun():
    """Begins an episode at an address."""
    made = []

    def begin(url, *args, payload=None, **options):
        environment = OpenEnvEnvironment(url, *args, **{"deadline": 20.0} | options)
        made.append(environment)
        return environment, *environment.reset(options={"task": task(**payload or {"seed": 1})})

    yield begin
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def hall():
    with serve() as (url, server):
        yield url, server


def test_the_rules_are_kept(hall):
    check_environment(OpenEnvEnvironment(hall[0]), task(seed=1))
    assert waits(OpenEnvEnvironment(hall[0]))


def test_an_episode_goes_over_the_wire_and_its_state_is_the_anchor(hall, begun):
    environment, observation, info = begun(hall[0])
    assert observation == "place 0 at time 0"
    assert info == {"anchor": '{"place": 0}', "metrics": CALM}
    said = [environment.step(action) for action in ("on", "stay", "on", "on")]
    assert [each[0] for each in said] == [
        f"place {place} at time {time + 1}" for time, place in enumerate((1, 1, 2, 3))
    ]
    assert [each[4]["anchor"] for each in said] == ['{"place": 1}'] * 2 + ['{"place": 2}', '{"place": 3}']
    assert [each[1:4] for each in said] == [(0.0, False, False)] * 3 + [(1.0, True, False)]
    assert [each[4]["success"] for each in said] == [False] * 3 + [True]


def test_a_task_s_payload_is_what_reset_is_given(hall, begun):
    begun(hall[0], payload={"seed": 2, "level": "easy"})
    assert {"type": "reset", "data": {"seed": 2, "level": "easy"}} in hall[1].received


@pytest.mark.slow
def test_steps_of_a_server_written_without_the_package_are_compared_by_its_state(hall):
    """Observations have a clock, so that no two later ones are equal; states are."""
    policy = TinyPolicy([lambda: WORDS, compact_text_markers], hidden_size=16, num_layers=1, max_length=64).build()

    def script(request):
        return [*policy.tokenizer.encode(["on", "back", "wait"][request.seed % 3]), policy.tokenizer.end_token_id]

    played = {}
    for ignored in (("episode_id", "step_count"), ("episode_id",)):
        player = RolloutPlayer(
            OpenEnvEnvironment(hall[0], state_ignored=ignored),
            SeededTasks({"train": [0, 3]}),
            CompactTextPrompt(),
            ScriptedEngine(script),
            SamplingParameters(max_tokens=2),
            tasks_per_epoch=4,
            group_size=8,
            max_steps=8,
            workers=0,
        )
        player.sync = ScriptedSync()
        player.read_panels(["train"])
        groups = player.play(0, policy).groups
        player.close()
        played[ignored] = GiGPO(invalid_action_penalty=0.0).estimate(StepTable.from_groups(groups))
    by_state, by_clock = played.values()
    assert by_state.metrics["anchors/singleton_fraction"] < 0.1 < by_clock.metrics["anchors/singleton_fraction"]
    assert np.count_nonzero(by_state.step_advantage) > np.count_nonzero(by_clock.step_advantage)


def test_a_tiny_policy_trains_on_a_server(hall):
    train_tiny_policy(OpenEnvEnvironment(hall[0]), SeededTasks({"train": [0, 7]}), WORDS, workers=1)


def test_an_action_that_the_server_refuses_costs_a_step_and_nothing_else(hall, begun):
    environment, *_ = begun(hall[0])
    environment.step("on")
    environment._form = type(environment._form)(field="massage")
    observation, *outcome, info = environment.step("on")
    assert observation == "The action was refused: message: Field required\nplace 1 at time 1"
    assert outcome == [0.0, False, False]
    assert info == {"anchor": '{"place": 1}', "success": False, "metrics": CALM | {"refused_actions": 1.0}}


def test_an_action_that_the_server_fails_on_is_told_and_counted(hall, begun, caplog):
    environment, *_ = begun(hall[0])
    observation, *_, info = environment.step("break")
    environment.step("break")
    assert len([each for each in caplog.messages if "failed on an action" in each]) == 1
    assert observation == "The action was refused: the floor gives way\nplace 0 at time 0"
    assert info["metrics"] == {"refused_actions": 0.0, "server_errors": 1.0}
    assert environment.step("on")[0] == "place 1 at time 1"
    assert environment.reset(options={"task": task(seed=1)})[1]["metrics"] == CALM


def test_a_payload_that_the_server_refuses_names_the_task(hall, begun):
    with pytest.raises(ValueError, match=r"refused to reset with the payload of task 'it', {'seed': -1}: seed must be"):
        begun(hall[0], payload={"seed": -1})


def test_a_field_that_the_action_has_not_is_refused_by_name(hall):
    with pytest.raises(
        ValueError, match=r"action_field must be a field of the server's actions .*massage.*mean message"
    ):
        OpenEnvEnvironment(hall[0], action_field="massage").warm_up()


def test_an_observation_without_the_field_is_refused_by_name(hall, begun):
    with pytest.raises(ValueError, match="observation_field must be a field of every observation, got 'txt', but one"):
        begun(hall[0], observation_field="txt")


class Rich(World):
    """Several fields, an instruction, actions that can be taken, and a state of nothing but a clock."""

    def seen(self):
        said = {"text": "a hall", "hint": "go on", "legal_actions": [0, 1]}
        return {
            "observation": said | {"won": self.place > 0},
            "reward": True,
            "done": False,
            "metadata": {"ask": "win"},
        }

    def step(self, data):
        return super().step({"message": ["on", "back"][data["move"]]})

    def state(self):
        return {"episode_id": self.episode, "step_count": self.steps}


MOVE = {"properties": {"move": {"type": "integer", "enum": [0, 1]}}, "required": ["move"]}


@pytest.fixture(scope="module")
def rich():
    seen = {"properties": {"text": TEXT, "hint": {"anyOf": [TEXT, {"type": "null"}]}, "won": {"type": "boolean"}}}
    with serve(world=Rich, schema={"action": MOVE, "observation": seen}) as (url, server):
        yield url, server


def test_an_observation_of_several_texts_is_json_unless_a_field_is_named(rich, begun):
    assert json.loads(begun(rich[0])[1]) == {"text": "a hall", "hint": "go on", "legal_actions": [0, 1], "won": False}
    assert begun(rich[0], observation_field="hint")[1] == "go on"


def test_a_state_of_ignored_fields_alone_leaves_the_observation_as_the_anchor(rich, begun):
    assert begun(rich[0], observation_field="text")[2]["anchor"] == "a hall"


def test_fields_say_what_is_asked_for_what_can_be_done_and_who_has_won(rich, begun):
    environment, _, info = begun(rich[0], success_field="won", instruction_field="ask")
    assert info["instruction"] == "win"
    assert info["admissible_actions"] == ["0", "1"]
    assert "success" not in info
    assert [environment.step(move)[4]["success"] for move in ("1", "0", "0")] == [False, False, True]


def test_a_number_is_read_from_the_policy_s_text(rich, begun):
    environment, *_ = begun(rich[0])
    environment.step("1")
    assert {"type": "step", "data": {"move": 1}} in rich[1].received


def test_a_field_that_never_comes_leaves_success_unsaid(rich, begun):
    assert "success" not in begun(rich[0], success_field="win")[0].step("0")[4]


def test_a_server_without_a_schema_is_given_objects(begun):
    with serve(schema={}) as (url, _):
        environment, observation, _ = begun(url)
        assert json.loads(observation) == {"text": "place 0 at time 0"}
        assert environment.step('{"message": "on"}')[4]["anchor"] == '{"place": 1}'
        observation, *_, info = environment.step("on")
        assert observation.startswith("The action was refused: an action must be an object in JSON\n")
        assert info["anchor"] == '{"place": 1}'


def test_a_connection_that_was_lost_between_episodes_is_made_again(begun):
    with serve() as (url, server):
        environment, *_ = begun(url)
        environment.wire.run(environment._session._socket.close())
        assert environment.reset(options={"task": task(seed=1)})[0] == "place 0 at time 0"
        assert server.connections == 2


def test_a_connection_that_is_lost_within_an_episode_loses_it_and_the_next_begins_on_another(begun):
    with serve(drop_after=4) as (url, server):
        environment, *_ = begun(url)
        with pytest.raises(LostError, match=f"the connection to the environment server {url} is lost"):
            environment.step("on")
        assert environment.reset(options={"task": task(seed=1)})[0] == "place 0 at time 0"
        assert server.connections == 2


def test_a_step_that_takes_too_long_loses_its_episode_alone(begun):
    with serve(slow=3.0) as (url, _):
        environment, *_ = begun(url)
        environment.wire.deadline = 0.5
        with pytest.raises(LostError, match=r"has not answered within 0\.5 s"):
            environment.step("sleep")
        environment.wire.deadline = 20.0
        assert environment.reset(options={"task": task(seed=1)})[0] == "place 0 at time 0"
        assert environment.step("on")[0] == "place 1 at time 1"  # no late answer is taken for this one's


def test_a_server_that_is_not_there_ends_the_run_with_its_address():
    environment = OpenEnvEnvironment("http://127.0.0.1:9", deadline=0.3)
    with pytest.raises(RunError, match=r"server http://127\.0\.0\.1:9 cannot be reached .* Is it running\?"):
        environment.reset(options={"task": task(seed=1)})


@pytest.mark.slow
def test_a_server_that_is_full_says_so_with_what_to_do(begun):
    with serve(sessions=1) as (url, _):
        begun(url)
        with pytest.raises(RunError, match=r"full\. It takes 1 sessions at once, and each of data\.num_slots episodes"):
            begun(url, deadline=1.0)


def test_a_server_that_is_full_is_waited_for(begun):
    with serve(sessions=1) as (url, _):
        first, *_ = begun(url)
        threading.Timer(0.3, first.close).start()
        assert begun(url)[1] == "place 0 at time 0"


@pytest.mark.slow
def test_pings_are_answered_while_a_policy_thinks(begun):
    with serve(heartbeat=1.0) as (url, _):  # it drops who does not answer within half of it
        environment, *_ = begun(url)
        time.sleep(1.7)
        assert environment.step("on")[0] == "place 1 at time 1"


def test_a_server_without_a_websocket_is_asked_over_http_one_episode_at_a_time(begun):
    with serve(websocket=False) as (url, _):
        environment, observation, info = begun(url)
        assert (observation, info["anchor"]) == ("place 0 at time 0", '{"place": 0}')
        assert environment.step("on")[4]["anchor"] == '{"place": 1}'
        environment._form = type(environment._form)(field="massage")
        assert environment.step("on")[0].startswith("The action was refused: message: Field required")
        other = copy.deepcopy(environment)
        other._session = None
        pickle.dumps(other)  # though the wire knows a session of this process
        other.reset(options={"task": task(seed=1)})
        with pytest.raises(RunError, match="has no WebSocket at /ws, and without it one world for all episodes"):
            environment.step("on")


def test_copies_share_what_leads_to_the_server_and_pickled_ones_start_anew(hall):
    environment = OpenEnvEnvironment(hall[0])
    assert copy.deepcopy(environment).wire is environment.wire
    environment.warm_up()
    assert pickle.loads(pickle.dumps(environment)).reset(options={"task": task(seed=1)})[0] == "place 0 at time 0"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="url must begin with http://"):
        OpenEnvEnvironment(url)


@pytest.mark.parametrize("url", ["http://host/", "ws://host/ws", "http://host"])
def test_an_address_may_be_written_in_any_of_its_forms(url):
    assert OpenEnvEnvironment(url).wire.url == "http://host"


def test_tasks_are_those_that_the_server_lists():
    with serve(tasks={"train": [{"id": 1, "level": "easy"}, {"id": 2}, {"id": 3}], "test": [{"id": 4}]}) as (url, _):
        source = OpenEnvTasks(url, payload={"hint": True}, kind_field="level")
        check_source(source, ("train", "test"))
        panel = source.panel("train")
        assert len(panel) == 3  # though a list of a long split may be cut
        assert panel.tasks[1].payload == {"split": "train", "index": 1, "hint": True}
        assert [each.kind for each in panel.tasks] == ["easy", "hall", "hall"]
        assert len(OpenEnvTasks(url, num_tasks=2).panel("train")) == 2
        assert panel.sha256 != OpenEnvTasks(url).panel("train").sha256


def test_a_server_without_a_task_api_says_what_to_use(hall):
    with pytest.raises(ValueError, match=r"/list_environments answered with 404: .* use gigpo_lightning.*SeededTasks"):
        OpenEnvTasks(hall[0], deadline=5.0).panel("train")
