"""A run whose servers are not there yet says so, listens, and waits for nobody who is somebody else."""

import json
import logging
import re
import socket
import threading

import pytest
from lightning.pytorch import Callback

from callbacks import WeightSync
from gigpo_lightning.engines.vllm_server import client as vllm_client
from gigpo_lightning.engines.vllm_server import waiting as vllm_waiting
from gigpo_lightning.engines.vllm_server.client import ServerClient, ServerError
from gigpo_lightning.errors import Preempted, RunError
from gigpo_lightning.rollout import ServerTimeouts, VLLMServerEngine
from tests.engines.fake_server import ARCHITECTURE, FakeServer
from tests.engines.real_server import free_port
from tests.scripted_run import quiet_trainer, tiny_module, walking_data

FOREVER = ServerTimeouts(start=1e6, connect=1e6)


@pytest.fixture
def serve():
    servers = []

    def start(fault=lambda path, count: None, **info):
        servers.append(FakeServer(fault, **info))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def start(tmp_path):
    """Start an engine that would wait for ever."""
    (tmp_path / "config.json").write_text(json.dumps(ARCHITECTURE))

    def begin(*urls, should_stop=lambda: False):
        engine = VLLMServerEngine(urls, timeouts=FOREVER)
        try:
            engine.start_unless(str(tmp_path), should_stop)
        finally:
            engine.close()

    return begin


@pytest.fixture
def nobody():
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def deaf():
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def said_often(monkeypatch, caplog):
    monkeypatch.setattr(vllm_waiting, "_SAY_EVERY", 0.01)
    caplog.set_level(logging.INFO)
    return caplog


def after_lines(caplog, number):
    """Asks to stop once so many lines have been said."""
    return lambda: len(caplog.messages) >= number


def test_a_server_that_is_told_something_and_does_not_answer_is_named_meanwhile(deaf, monkeypatch, caplog):
    monkeypatch.setattr(vllm_client, "_SAY_EVERY", 0.01)
    caplog.set_level(logging.INFO)
    client = ServerClient(ServerTimeouts(), max_connections=1)
    try:
        with pytest.raises(ServerError, match=r"has not answered POST /pause within 0\.5 s"):
            client.post_all([deaf], "/pause", seconds=0.5)
    finally:
        client.close()
    assert f"waiting for {deaf} to answer POST /pause, 0.5 s at most, for 0 s now" in caplog.messages


def test_it_says_again_and_again_whom_it_waits_for_why_and_how_long_yet(start, serve, nobody, said_often):
    there = serve()
    with pytest.raises(Preempted):
        start(nobody, there.url, should_stop=after_lines(said_often, 5))
    last = said_often.messages[-1]
    form = rf"waiting for (\d+) s more at most: the vLLM server {nobody} cannot be asked \(.*Connect.*\)"
    assert 0 < int(re.fullmatch(form, last)[1]) <= 1e6


def test_one_that_takes_a_connection_and_says_nothing_is_waited_for_too(start, deaf, said_often):
    with pytest.raises(Preempted, match=f"while waiting for the vLLM servers {deaf}"):
        start(deaf, should_stop=after_lines(said_often, 2))
    assert f"the vLLM server {deaf} has not answered" in said_often.text


@pytest.mark.slow
def test_a_server_that_comes_later_is_taken(serve, start):
    there = serve()
    start(there.url)
    late = serve(lambda path, count: 503 if count <= 2 else None)
    start(late.url, there.url)
    assert late.asked["/info"] == 3


@pytest.mark.parametrize("status", [200, 301, 400, 404, 405, 500, 501])
def test_a_stranger_is_refused_at_its_first_answer(serve, start, nobody, status):
    stranger = serve(lambda path, count: status)
    with pytest.raises(RunError) as refusal:
        start(nobody, stranger.url)
    message = str(refusal.value)
    assert message.startswith(f"the vLLM server {stranger.url} ")
    assert "gigpo-server" in message
    assert (f"with {status}: " if status != 200 else "answered GET /inference/gigpo/info with") in message
    assert "\n" not in message
    assert stranger.asked.total() == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_told_at_once(serve, start, nobody, status):
    server = serve(lambda path, count: status)
    with pytest.raises(RunError, match=rf"{server.url} answered .* with {status}: .*set VLLM_API_KEY to the secret"):
        start(nobody, server.url)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>hello\nthere</html>"])
def test_what_speaks_another_language_is_refused(start, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        threading.Thread(target=speak, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"{url} cannot be asked .*; start it with gigpo-server") as refusal:
            start(url)
        assert "\n" not in str(refusal.value)


def test_a_server_without_encryption_is_not_waited_for_at_an_address_with_it(serve, start):
    with pytest.raises(RunError, match=r"cannot be asked \(ClientConnectorSSLError"):
        start(serve().url.replace("http:", "https:"))


@pytest.mark.parametrize("info", [{"protocol": 1}, {"protocol": "2"}, {"protocol": None}])
def test_a_gigpo_server_of_another_version_is_refused(serve, start, info):
    with pytest.raises(RunError, match=r"must speak protocol 2 as this version does, got .*: install one version"):
        start(serve(**info).url)


@pytest.mark.parametrize("secret", ["two words", "line\n", "ключ"])
def test_a_key_that_cannot_be_sent_is_not_waited_with(start, nobody, monkeypatch, secret):
    monkeypatch.setenv("VLLM_API_KEY", secret)
    with pytest.raises(ValueError, match="VLLM_API_KEY must be printable ASCII"):
        start(nobody)


@pytest.mark.parametrize("validated", [0, 2], ids=["before the first rollout", "in the sanity check"])
def test_a_fit_that_waits_for_a_server_stops_when_it_is_asked_to(nobody, tmp_path, said_often, validated):
    module, data = tiny_module(), walking_data(VLLMServerEngine([nobody], timeouts=FOREVER))

    class Asked(Callback):
        def should_stop(self):
            return "s more at most: the vLLM server" in said_often.text

    trainer = quiet_trainer(tmp_path, WeightSync(), Asked(), max_epochs=1, num_sanity_val_steps=validated)
    with pytest.raises(Preempted):
        trainer.fit(module, data)
