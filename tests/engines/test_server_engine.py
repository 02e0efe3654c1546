"""What becomes of a rollout when its vLLM servers misbehave: stand-ins that do so to order."""

import gc
import json
import time
from importlib.metadata import entry_points

import pytest
import torch

from gigpo_lightning.engines.vllm_server.command import server_command
from gigpo_lightning.engines.vllm_server.guard import MIDDLEWARE
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import Adapter, GenerationRequest, SamplingParameters, ServerTimeouts, VLLMServerEngine
from tests.engines.fake_server import ARCHITECTURE, FakeServer

PATIENT = ServerTimeouts(start=60.0, connect=60.0, reply=60.0, weights=60.0)
IMPATIENT = ServerTimeouts(start=2.0, connect=2.0, reply=0.5, weights=0.5)
WEIGHTS = {f"layer.{number}.weight": torch.full((3, 4), float(number)) for number in range(5)}


@pytest.fixture
def serve():
    servers = []

    def start(*faults, **info):
        servers.extend(FakeServer(fault, **info) for fault in faults)
        return servers

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def engine_for(tmp_path):
    engines = []
    (tmp_path / "config.json").write_text(json.dumps(ARCHITECTURE))

    def make(servers, load=True, **arguments):
        arguments = {"timeouts": PATIENT} | arguments
        engine = VLLMServerEngine([server.url for server in servers], **arguments)
        engines.append(engine)
        engine.start(str(tmp_path))
        if load:
            engine.load_weights(WEIGHTS.items(), 7)
        return engine

    yield make
    for engine in engines:
        engine.close()


def nothing(path, count):
    return None


def at(path, fault, first=1, last=10**9):
    return lambda asked, count: fault if asked == path and first <= count <= last else None


def request(index):
    return GenerationRequest(
        request_id=str(index),
        prompt_ids=(5, 6),
        sampling=SamplingParameters(max_tokens=4),
        stop_token_ids=(2,),
        seed=index,
    )


def play(engine, number):
    for index in range(number):
        engine.submit(request(index))
    completions = []
    while len(completions) < number:
        completions += engine.poll()
    assert engine.poll() == []
    return completions


def test_requests_are_shared_out_and_each_is_answered_once(serve, engine_for):
    servers = serve(nothing, nothing, nothing)
    completions = play(engine_for(servers), 30)
    assert sorted(int(completion.request_id) for completion in completions) == list(range(30))
    assert [len(server.requests) for server in servers] == [10, 10, 10]
    assert {(c.token_ids, c.logprobs, c.policy_version) for c in completions} == {((3, 4, 2), (-1.0,) * 3, 7)}


def test_what_a_server_is_asked_for_is_what_the_request_says(serve, engine_for):
    (server,) = serve(nothing)
    play(engine_for([server]), 1)
    (asked,) = server.requests
    assert asked["token_ids"] == [5, 6]
    assert asked["sampling_params"] == {
        "temperature": 1.0,
        "max_tokens": 4,
        "seed": 0,
        "stop_token_ids": [2],
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }


def test_weights_reach_every_server_in_parts_and_leave_nothing_behind(serve, engine_for, tmp_path):
    servers = serve(nothing, nothing)
    engine = engine_for(servers, load=False, weights_folder=str(tmp_path / "weights"))
    engine._transfer._part_bytes = 100
    engine.load_weights(WEIGHTS.items(), 3)
    for server in servers:
        assert server.asked["/update_weights"] == 2  # 5 tensors of 48 bytes, 3 to a part
        assert all(torch.equal(server.weights[name], WEIGHTS[name]) for name in WEIGHTS)
        assert server.label.endswith(":3")
    assert not list((tmp_path / "weights").rglob("*.safetensors"))
    engine.close()
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("fault", [500, "drop", 5.0], ids=["error", "dropped connection", "no answer"])
def test_the_other_servers_write_what_a_lost_one_should_have(serve, engine_for, fault, caplog):
    good, bad = serve(nothing, at("/inference/v1/generate", fault, first=3))
    engine = engine_for([good, bad], timeouts=IMPATIENT if fault == 5.0 else PATIENT)
    completions = play(engine, 20)
    assert sorted(int(completion.request_id) for completion in completions) == list(range(20))
    assert [server.url for server in engine.replicas] == [good.url]
    assert caplog.text.count("its requests go to the other servers") == 1


@pytest.mark.parametrize("fault", [500, "drop", 5.0], ids=["error", "dropped connection", "no answer"])
def test_the_last_server_s_loss_ends_the_run_with_the_cause(serve, engine_for, fault):
    (server,) = serve(at("/inference/v1/generate", fault, first=3))
    with pytest.raises(RunError, match=f"no vLLM server is left: the vLLM server {server.url}"):
        play(engine_for([server], timeouts=IMPATIENT if fault == 5.0 else PATIENT), 20)


def test_a_connection_that_breaks_once_costs_nothing(serve, engine_for):
    (server,) = serve(at("/inference/v1/generate", "drop", first=3, last=3))
    engine = engine_for([server])
    assert len(play(engine, 10)) == 10
    assert [each.url for each in engine.replicas] == [server.url]


def test_a_server_that_hangs_costs_one_time_limit_however_much_it_was_asked_for(serve, engine_for):
    good, bad = serve(nothing, at("/inference/v1/generate", 30.0))
    engine = engine_for([good, bad], max_connections=1, timeouts=IMPATIENT)
    assert len(play(engine, 40)) == 40
    assert bad.asked["/inference/v1/generate"] < 10  # twice at most, as a rule; 20 were its share


def test_what_is_cancelled_is_not_asked_for_and_new_weights_do_not_wait_for_it(serve, engine_for):
    (server,) = serve(at("/inference/v1/generate", 1000.0, last=2))
    engine = engine_for([server], max_connections=2)
    for index in range(20):
        engine.submit(request(index))
    while server.asked["/inference/v1/generate"] < 2:
        time.sleep(0.01)
    engine.cancel()
    engine.load_weights(WEIGHTS.items(), 8)
    assert engine.poll() == []
    assert server.asked["/inference/v1/generate"] == 2
    assert len(play(engine, 2)) == 2


@pytest.mark.parametrize("info", [{"logprobs_mode": "raw_logprobs"}, {"max_model_len": 100}, {"weight_transfer": None}])
def test_a_server_that_comes_back_as_another_is_not_taken_back(serve, engine_for, info):
    good, bad = serve(nothing, at("/inference/v1/generate", 500))
    engine = engine_for([good, bad])
    play(engine, 4)
    bad.info = bad.info | info
    engine.load_weights(WEIGHTS.items(), 8)
    assert [server.url for server in engine.replicas] == [good.url]


def test_a_start_that_failed_can_be_tried_again(serve, engine_for, tmp_path):
    (server,) = serve(nothing, logprobs_mode="raw_logprobs")
    engine = VLLMServerEngine([server.url])
    (tmp_path / "config.json").write_text(json.dumps(ARCHITECTURE))
    for _ in range(2):
        with pytest.raises(RunError, match="must be started with gigpo-server"):
            engine.start(str(tmp_path))
    with pytest.raises(RuntimeError, match="has not been started"):
        engine.load_weights(WEIGHTS.items(), 0)
    server.info = server.info | {"logprobs_mode": "processed_logprobs"}
    engine.start(str(tmp_path))
    assert engine.max_model_len == 512
    engine.close()


def test_the_run_may_ask_for_a_shorter_context(serve, engine_for):
    (server,) = serve(nothing)
    assert engine_for([server], max_model_len=99).max_model_len == 99


def test_a_run_that_closes_nothing_leaves_no_weights_behind(serve, engine_for, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (server,) = serve(nothing)
    engine = engine_for([server])
    assert list((tmp_path / "temporary").iterdir())
    engine._transfer = None
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_an_adapter_for_no_server_is_an_error(serve, engine_for):
    (server,) = serve(at("/inference/v1/generate", 500), max_lora_rank=8)
    engine = engine_for([server])
    with pytest.raises(RunError, match="no vLLM server is left"):
        play(engine, 1)
    engine.cancel()
    with pytest.raises(RunError, match="no vLLM server is left"):
        engine.load_adapter(Adapter(config={"r": 8}, tensors=WEIGHTS), 8)
    assert engine.policy_version == -1


def test_a_lost_server_is_taken_back_with_the_next_weights(serve, engine_for):
    good, bad = serve(nothing, at("/inference/v1/generate", 500))
    engine = engine_for([good, bad])
    play(engine, 16)
    bad.fault = nothing
    engine.load_weights(WEIGHTS.items(), 8)
    assert len(engine.replicas) == 2
    before = len(bad.requests)
    play(engine, 16)
    assert len(bad.requests) == before + 8


def test_a_server_that_was_started_anew_is_never_sampled_from(serve, engine_for):
    good, bad = serve(nothing, nothing)
    engine = engine_for([good, bad])
    bad.label = "default"
    assert len(play(engine, 8)) == 8
    assert "it was started anew, or something else trains with it" in engine._servers[1].lost
    good.label = "another run:7"
    with pytest.raises(RunError, match="got \\['another run:7'\\]"):
        play(engine, 8)


def test_a_request_that_a_server_refuses_is_not_the_server_s_loss(serve, engine_for):
    servers = serve(at("/inference/v1/generate", 400), nothing)
    with pytest.raises(RunError, match="answered POST /inference/v1/generate with 400"):
        play(engine_for(servers), 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]
)
@pytest.mark.parametrize("fault", [500, "drop", 5.0], ids=["error", "dropped connection", "no answer"])
def test_weights_that_do_not_arrive_end_the_run_and_no_version_is_claimed(serve, engine_for, step, fault):
    good, bad = serve(nothing, at(step, fault))
    engine = engine_for([good, bad], load=False, timeouts=IMPATIENT if fault == 5.0 else PATIENT)
    with pytest.raises(
        RunError, match=f"the weights of version 7 did not reach every server: the vLLM server {bad.url}"
    ):
        engine.load_weights(WEIGHTS.items(), 7)
    assert engine.policy_version == -1


def test_an_update_that_another_run_left_open_is_given_up_first(serve, engine_for):
    (server,) = serve(at("/start_weight_update", 500, last=1))
    engine = engine_for([server])
    assert engine.policy_version == 7
    assert server.asked["/update_weights"] == 2  # the one that gives up, and the weights


def test_the_secret_is_told_to_the_server_and_to_nobody_else(serve, engine_for, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    (server,) = serve(nothing)
    engine = engine_for([server])
    play(engine, 1)
    assert {headers.get("Authorization") for headers in server.headers} == {"Bearer s3cret"}
    assert all("s3cret" not in json.dumps(request) for request in server.requests)


def test_a_server_that_wants_a_secret_says_so(serve, engine_for, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    (server,) = serve(at("/info", 401))
    with pytest.raises(RunError, match="set VLLM_API_KEY to the secret"):
        engine_for([server])


@pytest.mark.slow
def test_a_server_may_start_later_than_the_run(serve, engine_for):
    (server,) = serve(at("/info", 503, last=2))
    assert engine_for([server]).max_model_len == 512


@pytest.mark.slow
def test_a_server_that_never_answers_is_not_waited_for_for_ever(tmp_path, engine_for, serve):
    (server,) = serve(nothing)
    server.close()
    with pytest.raises(RunError, match=r"it has been waited for 2 s. Start one: gigpo-server MODEL --port \d+"):
        engine_for([server], timeouts=IMPATIENT)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "must be started with gigpo-server"),
        ({"weight_transfer": None}, "must be started with gigpo-server"),
        ({"architecture": ARCHITECTURE | {"hidden_size": 65}}, "must serve the policy's architecture"),
    ],
)
def test_a_server_that_is_not_fit_is_refused_before_anything_is_played(serve, engine_for, info, message):
    servers = serve(nothing, **info)
    with pytest.raises(RunError, match=message):
        engine_for(servers)


def test_a_server_without_our_routes_is_named(serve, engine_for):
    servers = serve(at("/info", 404))
    with pytest.raises(RunError, match="start it with gigpo-server"):
        engine_for(servers)


@pytest.mark.parametrize("urls", [[], ["127.0.0.1:8000"], ["ftp://x:1"], ["http://127.0.0.1:8000/v1"]])
def test_urls_that_are_none_are_refused(urls):
    with pytest.raises(ValueError, match="urls must"):
        VLLMServerEngine(urls)


def test_servers_elsewhere_need_a_folder_that_both_sides_read(serve, engine_for, monkeypatch):
    servers = serve(nothing)
    monkeypatch.setattr("gigpo_lightning.engines.vllm_server.engine.is_loopback", lambda url: False)
    with pytest.raises(RunError, match=r"weights_folder must be a folder that http://127.0.0.1:.* reads too"):
        engine_for(servers)


def test_the_command_binds_to_loopback_and_opens_no_dev_mode(monkeypatch):
    for name in ("VLLM_API_KEY", "VLLM_SERVER_DEV_MODE"):
        monkeypatch.delenv(name, raising=False)
    command, environment = server_command(["some/model", "--max-model-len", "99"])
    assert command[-4:] == ["--host", "127.0.0.1", "--port", "8000"]  # the last word counts
    assert command[-6:-4] == ["--middleware", MIDDLEWARE]  # the last one stands before all others
    assert command[-8:-6] == ["--max-model-len", "99"]
    assert "gigpo" in environment["VLLM_PLUGINS"].split(",")
    assert "VLLM_SERVER_DEV_MODE" not in environment


@pytest.mark.parametrize(("asked", "on_gpu", "kept"), [(None, False, "0"), ("1", False, "1"), (None, True, None)])
def test_the_worker_of_a_server_on_a_cpu_has_no_process_of_its_own_unless_asked(monkeypatch, asked, on_gpu, kept):
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    monkeypatch.delenv(name, raising=False)
    if asked is not None:
        monkeypatch.setenv(name, asked)
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    assert server_command(["some/model"])[1].get(name) == kept


def test_other_plugins_that_were_asked_for_stay(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    assert server_command(["some/model"])[1]["VLLM_PLUGINS"] == "theirs,gigpo"


def test_naming_our_plugin_leaves_no_other_out(monkeypatch):
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    installed = {
        each.name for each in entry_points(group="vllm.general_plugins") + entry_points(group="vllm.platform_plugins")
    }
    assert installed <= set(server_command(["some/model"])[1]["VLLM_PLUGINS"].split(","))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-model-len", "2560", "some/model"], "the model comes first"),
        (["some/model", "--", "--host", "0.0.0.0"], "leave out --"),
        (["some/model", "--worker-extension-cls=mine"], "--worker-extension-cls must be left out"),
    ],
)
def test_an_order_that_would_mean_something_else_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        server_command(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node7"])
def test_a_host_that_others_reach_needs_a_secret_and_no_dev_mode(host, monkeypatch, capsys):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(SystemExit):
        server_command(["some/model", "--host", host])
    assert "set VLLM_API_KEY to a secret" in capsys.readouterr().err
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    assert host in server_command(["some/model", "--host", host])[0]
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            with pytest.raises(SystemExit):
                server_command(["some/model", "--host", host])
            assert f"{name} must not be set" in capsys.readouterr().err
