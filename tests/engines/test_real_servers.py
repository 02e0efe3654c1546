"""Real vLLM servers: what one answers strangers, by its own description of itself; and two that are killed."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
import torch

from callbacks import WeightSync
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import ServerTimeouts, VLLMServerEngine
from tests.engines.real_server import RealServer, real_server
from tests.scripted_run import quiet_trainer, tiny_module, walking_data

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
GENERATE = {"token_ids": [3, 4], "sampling_params": {"max_tokens": 2, "temperature": 0.0, "detokenize": False}}


KEY = {"VLLM_API_KEY": "s3cret"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model; vLLM on CPUs wants heads that are 32 wide."""
    folder = tmp_path_factory.mktemp("model")
    tiny_module(hidden_size=64).policy.model.config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model):
    """A server with a key, and the engine that has it; also its port, which is then used."""
    with real_server(model, "--enable-lora", variables=KEY) as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", "s3cret")
        engine = VLLMServerEngine([started.url])
        engine.start(str(model))
        engine.close()
        yield started


def ask(server, method, path, key=None, body=b"{}"):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


@pytest.fixture(scope="module")
def paths(server):
    status, description = ask(server, "GET", "/openapi.json", "s3cret")
    assert status == 200
    return json.loads(description)["paths"]


@pytest.mark.parametrize("key", [None, "wrong"])
def test_every_path_that_the_server_has_wants_its_key(server, paths, key):
    found = {*paths, "/metrics", "/docs", "/redoc", "/openapi.json", "/", "/a/path/of/tomorrow"} - {"/health"}
    assert {"/invocations", "/inference/v1/generate", "/inference/gigpo/update_weights", "/tokenize"} <= found
    answers = {(method, path): ask(server, method, path, key)[0] for path in sorted(found) for method in METHODS}
    assert set(answers.values()) == {401}


@pytest.mark.parametrize(
    "path", ["//invocations", "/invocations/", "/health/../invocations", "/health/%2e%2e/invocations", "/INVOCATIONS"]
)
def test_no_spelling_of_a_path_goes_round_the_key(server, path):
    assert ask(server, "POST", path)[0] == 401


def test_nothing_but_health_is_open(server):
    assert ask(server, "GET", "/health", body=None)[0] == 200
    assert [ask(server, method, "/health")[0] for method in ("POST", "OPTIONS", "DELETE")] == [401] * 3


def test_with_the_key_it_works(server):
    status, answer = ask(server, "POST", "/inference/v1/generate", "s3cret", json.dumps(GENERATE).encode())
    assert (status, len(json.loads(answer)["choices"][0]["token_ids"])) == (200, 2)
    assert ask(server, "GET", "/metrics", "s3cret", None)[0] == 200


def test_a_run_with_a_wrong_key_is_told_at_once(server, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"with 401: .*; set VLLM_API_KEY to the secret"):
        VLLMServerEngine([server.url], timeouts=ServerTimeouts(start=10_000.0)).start(str(tmp_path))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no json", "a request must be JSON"),
        (b"[" * 60_000, "a request must be JSON"),
        (b"[]", "two strings"),
        (b'{"name": 1, "folder": "x"}', "two strings"),
        (b'{"name": "a"}', "two strings"),
        (b'{"name": "a", "folder": "some/hub-name"}', "must be an absolute path"),
        (b'{"name": "a", "folder": "/"}', "with adapter_model.safetensors in it"),
        (b'{"name": "a", "folder": "/\\u0000"}', "must be an absolute path"),
        (b'{"name": "' + b"a" * (1 << 16) + b'"}', "at most 65536 bytes"),
    ],
)
def test_a_wrong_adapter_is_refused_and_nothing_is_looked_for_elsewhere(server, body, reason):
    status, answer = ask(server, "POST", "/inference/gigpo/load_adapter", "s3cret", body)
    assert status == 400
    assert reason in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no json", "a request must be JSON"),
        (b"[]", "with 'shapes', an object of lists of integers"),
        (b'{"shapes": {"w": [2, true]}, "seed": 0, "adapter": ""}', "with 'shapes', an object of lists of integers"),
        (b'{"shapes": {}, "seed": "0", "adapter": ""}', "'seed', an integer or null"),
        (b'{"shapes": {}, "seed": 0, "adapter": null}', "'adapter', a string"),
        (b'{"shapes": {}, "seed": 0, "adapter": "none such"}', "none such"),
    ],
)
def test_a_wrong_question_for_weights_is_refused(server, body, reason):
    status, answer = ask(server, "POST", "/inference/gigpo/show_weights", "s3cret", body)
    assert status == 400
    assert reason in json.loads(answer)["error"]


@pytest.mark.parametrize("file", ["/etc/passwd", "weights.safetensors", "/nowhere/weights.safetensors"])
def test_weights_are_read_from_a_safetensors_file_of_this_machine_or_not_at_all(server, file):
    def tell(step, told):
        return ask(server, "POST", f"/inference/gigpo/{step}", "s3cret", json.dumps(told).encode())

    assert tell("start_weight_update", {})[0] == 200
    status, answer = tell("update_weights", {"update_info": {"file": file}})
    assert status == 500
    assert b"'file' must" in answer
    tell("update_weights", {"update_info": {"give_up": True}})  # gives the update up
    assert tell("start_weight_update", {})[0] == 200
    tell("update_weights", {"update_info": {"give_up": True}})


class KilledAfter(VLLMServerEngine):
    """Kills the next of some servers once so many replies have come."""

    def __init__(self, servers, replies: int) -> None:
        super().__init__([server.url for server in servers], timeouts=ServerTimeouts(reply=60.0, weights=60.0))
        self.doomed = list(servers)
        self.replies = replies
        self.seen = 0

    def poll_unless(self, ready):
        completions = super().poll_unless(ready)
        before, self.seen = self.seen, self.seen + len(completions)
        if self.doomed and before < self.replies <= self.seen:
            self.doomed.pop(0).kill()
        return completions


def test_a_run_outlives_one_of_two_servers_and_ends_with_the_cause_when_the_last_is_gone(
    server: RealServer, model, tmp_path, caplog
):
    """The last test: it ends the server of those before it."""
    module = tiny_module(hidden_size=64)
    with real_server(model, "--enable-lora", variables=KEY) as second:
        first = server
        engine = KilledAfter([first, second], replies=20)
        data = walking_data(engine, tasks_per_epoch=8)
        trainer = quiet_trainer(tmp_path, WeightSync(), max_epochs=1)
        before = torch.nn.utils.parameters_to_vector(module.policy.parameters()).clone()
        trainer.fit(module, data)
        played = data.experience
        episodes = list(played.trajectories())
        assert (len(episodes), played.played.progress.finished, played.played.progress.dropped) == (32, 32, 0)
        assert played.played.progress.steps == sum(len(episode.steps) for episode in episodes)
        assert {step.policy_version for episode in episodes for step in episode.steps} == {0}
        assert [server.url for server in engine.replicas] == [second.url]
        assert f"the vLLM server {first.url}" in caplog.text
        assert not torch.equal(before, torch.nn.utils.parameters_to_vector(module.policy.parameters()))

        engine.seen = 0
        with pytest.raises(RunError, match=f"no vLLM server is left: .*{second.url}"):
            quiet_trainer(tmp_path, WeightSync(), max_epochs=1).fit(module, walking_data(engine, tasks_per_epoch=8))
        engine.close()
