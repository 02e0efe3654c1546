"""Who passes the door of a gigpo-server, asked as its web server asks."""

import asyncio
from types import SimpleNamespace

import pytest

from gigpo_lightning.engines.vllm_server.guard import RequireKey, check_key, server_keys

KEYS = ["s3cret", "another"]


def arguments(keys=KEYS, host="127.0.0.1", uds=None):
    return SimpleNamespace(api_key=keys, host=host, uds=uds)


def knock(path, method="GET", authorization=(), kind="http", keys=KEYS, extensions=(), **scope):
    """What is sent back: "in" from behind the door, else the messages of its refusal."""
    sent = []

    async def application(scope, receive, send):
        await send("in")

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("the door asks for no message")

    app = SimpleNamespace(state=SimpleNamespace(args=arguments(keys)))
    headers = [(b"authorization", value) for value in authorization]
    scope = {"type": kind, "path": path, "method": method, "headers": headers, "app": app} | scope
    scope["extensions"] = {name: {} for name in extensions}
    asyncio.run(RequireKey(application)(scope, receive, send))
    return sent


def refused(sent):
    return sent[0]["status"] == 401 and b"wants its key" in sent[1]["body"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_stranger_may_ask_whether_the_server_is_well(method):
    assert knock("/health", method) == ["in"]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "/invocations", "/v1/models", "/inference/gigpo/info", "/metrics", "/docs", "/openapi.json"),
        *(
            "//health",
            "/health/",
            "/health/../invocations",
            "/Health",
            "/healthz",
            "/x/health",
            "/health\x00",
            "/health;",
        ),
        "/a path of tomorrow",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "health"])
def test_a_stranger_may_ask_for_nothing_else(path, method):
    assert refused(knock(path, method))


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE", "get"])
def test_health_is_open_for_reading_alone(method):
    assert refused(knock("/health", method))


@pytest.mark.parametrize("root_path", ["/inference", "/health", "/invocations"])
def test_a_prefix_of_a_proxy_opens_nothing(root_path):
    assert refused(knock(f"{root_path}/health", root_path=root_path))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_each_key_opens(key, scheme):
    assert knock("/invocations", "POST", [f"{scheme} {key}".encode()]) == ["in"]


@pytest.mark.parametrize(
    "sent",
    [
        [b"Bearer wrong"],
        [b"Bearer "],
        [b"Bearer"],
        [b"s3cret"],
        [b"Basic s3cret"],
        [b"Bearer s3cret "],
        [b"Bearer S3CRET"],
        [b"Bearer s3cret,another"],
        [b"Bearer \xff"],
        [b"Bearer wrong", b"Bearer s3cret"],
        [b"Bearer s3cret", b"Bearer wrong"],
    ],
)
def test_nothing_else_is_a_key(sent):
    assert refused(knock("/v1/models", authorization=sent))


def test_a_websocket_needs_the_key_too():
    assert knock("/health", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    answer = knock("/v1/realtime", kind="websocket", extensions=["websocket.http.response"])
    assert [message["type"] for message in answer] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert refused(answer)
    assert knock("/v1/realtime", kind="websocket", authorization=[b"Bearer s3cret"]) == ["in"]


def test_a_kind_of_request_of_tomorrow_is_refused():
    assert refused(knock("/health", kind="webtransport"))


def test_the_server_s_own_start_and_end_need_no_key():
    assert knock("", kind="lifespan") == ["in"]


def test_without_a_key_everyone_on_this_machine_may_ask(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert knock("/invocations", "POST", keys=None) == ["in"]


def test_the_environment_s_key_counts_where_no_other_is_given(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "from-the-environment")
    assert knock("/invocations", authorization=[b"Bearer from-the-environment"], keys=None) == ["in"]
    assert refused(knock("/invocations", authorization=[b"Bearer from-the-environment"]))


@pytest.mark.parametrize("host", [None, "0.0.0.0", "::", "node7"])
def test_a_server_that_others_reach_does_not_start_without_a_key(host, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="must have a key: set VLLM_API_KEY"):
        server_keys(arguments(None, host))
    assert server_keys(arguments(None, host, uds="/run/socket")) == []
    assert server_keys(arguments(KEYS, host)) == KEYS


@pytest.mark.parametrize("key", ["", " ", "two words", "line\n", "ключ", "\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(ValueError, match="VLLM_API_KEY must be printable ASCII without spaces") as refusal:
        check_key(key, "VLLM_API_KEY")
    assert key.isspace() or not key or key not in str(refusal.value)


def test_an_empty_key_is_not_left_out(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    with pytest.raises(ValueError, match="got nothing"):
        server_keys(arguments([""]))
