"""What a real gigpo-server answers strangers: its own description of itself says what it could be asked."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import ServerTimeouts, VLLMServerEngine
from modules import TinyPolicy
from tests.engines.real_server import real_server

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
GENERATE = {"token_ids": [3, 4], "sampling_params": {"max_tokens": 2, "temperature": 0.0, "detokenize": False}}


def words():
    return [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a key, and the engine that has it; also its port, which is then used."""
    folder = tmp_path_factory.mktemp("model")
    TinyPolicy([words], hidden_size=64, max_length=512).build().model.config.save_pretrained(folder)
    with (
        real_server(folder, "--enable-lora", variables={"VLLM_API_KEY": "s3cret"}) as started,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("VLLM_API_KEY", "s3cret")
        engine = VLLMServerEngine([started.url])
        engine.start(str(folder))
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
