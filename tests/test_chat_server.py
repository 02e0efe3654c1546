"""What a chat server is asked, what is read of its answers, and what becomes of those that fail."""

import copy
import math
import pickle
import threading
from datetime import date

import pytest

from gigpo_lightning.chat_model import ChatServerError
from gigpo_lightning.chat_server import ChatServer
from tests.chat_stand_in import ChatStandIn

HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"temperature": 0.0, "max_tokens": 1, "seed": 0, "deadline": 60.0}


def ask(server: ChatStandIn, **arguments):
    client = ChatServer(server.url, "m", **arguments)
    try:
        return client.ask(HELLO, temperature=0.5, max_tokens=9, seed=4, deadline=60.0)
    finally:
        client.close()


def answer(script, *faults, finish_reason="stop", **arguments):
    with ChatStandIn(script, *faults, finish_reason=finish_reason) as server:
        return ask(server, **arguments)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("gigpo_lightning.chat_server._FIRST_WAIT", 0.01)


def test_a_request_says_what_is_wanted_and_nothing_else():
    with ChatStandIn(lambda body: "hi") as server:
        ask(server)
    assert server.bodies == [{"model": "m", "messages": HELLO, "temperature": 0.5, "max_tokens": 9, "seed": 4}]
    assert server.paths == ["/v1/chat/completions"]
    assert "Authorization" not in server.headers[0]


def test_fields_are_added_and_null_leaves_one_out():
    with ChatStandIn(lambda body: "hi") as server:
        ask(server, fields={"seed": None, "max_tokens": None, "max_completion_tokens": 9, "top_p": 0.9})
    wanted = {"model": "m", "messages": HELLO, "temperature": 0.5, "max_completion_tokens": 9, "top_p": 0.9}
    assert server.bodies == [wanted]


def test_the_key_is_read_from_the_environment_and_sent(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    with ChatStandIn(lambda body: "hi") as server:
        ask(server, key_variable="MY_KEY")
    assert server.headers[0]["Authorization"] == "Bearer secret-1"


def test_a_key_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match=r"the environment variable MY_KEY, which must hold .*, but holds nothing"):
        answer(lambda body: "hi", key_variable="MY_KEY")


def test_an_error_names_the_url_and_the_status_and_never_the_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    with pytest.raises(
        ChatServerError, match=r"http://127\.0\.0\.1:\d+/v1/chat/completions answered with 401"
    ) as found:
        answer(lambda body: "hi", 401, key_variable="MY_KEY")
    assert "secret-1" not in str(found.value)
    assert "MY_KEY must hold its key" in str(found.value)
    assert found.value.lasting


@pytest.mark.parametrize("length", [492, 5])
@pytest.mark.parametrize("form", ["{}", '{{"said": "{}"}}', '{{"error": "{}"}}', '{{"choices": "{}"}}'])
def test_no_answer_shows_the_key_also_where_it_is_cut(form, length, monkeypatch, quick):
    monkeypatch.setenv("MY_KEY", "secret-123456789")
    with pytest.raises(ChatServerError) as found:
        answer(
            lambda body: "hi", *[form.format("x" * length + " secret-123456789")] * 2, key_variable="MY_KEY", attempts=2
        )
    assert "xx" in str(found.value)
    assert "secr" not in str(found.value)


def test_no_error_shows_a_proxy_s_password(monkeypatch):
    with ChatStandIn(lambda body: "hi") as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("http://", "http://me:secret@"))
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(ChatServerError, match=r"//\*\*\*@127.0.0.1") as found:
            ChatServer("https://model.invalid/v1", "m", attempts=1).ask(HELLO, **SHORT)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("fault", [500, 503, 429, 408, "drop"])
def test_what_fails_in_passing_is_asked_again(fault, quick):
    reply = answer(lambda body: "hi", fault, fault)
    assert (reply.text, reply.tries) == ("hi", 3)


@pytest.mark.parametrize("fault", [400, 401, 404, 422, "no JSON", '{"choices": []}', '{"choices": [{"message": 3}]}'])
def test_what_would_fail_again_is_asked_once(fault):
    with ChatStandIn(lambda body: "hi", fault) as server, pytest.raises(ChatServerError):
        ask(server)
    assert len(server.bodies) == 1


def test_the_first_of_several_tries_is_told_at_once(quick, caplog):
    answer(lambda body: "hi", 503, 503)
    (said,) = caplog.messages
    assert "answered with 503" in said
    assert "asking again in 0.0" in said


def test_a_server_is_given_up_after_so_many_tries(quick):
    told = r"answered with 503: .*; given up after 3 of at most 3 tries in"
    with ChatStandIn(lambda body: "hi", *[503] * 9) as server, pytest.raises(ChatServerError, match=told):
        ask(server, attempts=3)
    assert len(server.bodies) == 3


def test_a_wait_that_the_server_asks_for_is_kept():
    told = "given up after 1 of at most 8 tries in"
    with ChatStandIn(lambda body: "hi", 429, Retry_After="100.5") as server, pytest.raises(ChatServerError, match=told):
        ask(server, deadline=5.0)


def test_a_server_that_is_silent_is_given_up_at_the_deadline():
    with pytest.raises(ChatServerError, match=r"has not answered within [0-9.]+ s; given up after 1"):
        answer(lambda body: "hi", 1.0, deadline=0.1)


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(ChatServerError, match=r"http://127\.0\.0\.1:1/v1/chat/completions cannot be asked"):
        ChatServer("http://127.0.0.1:1", "m", attempts=1).ask(
            HELLO, temperature=0.0, max_tokens=1, seed=0, deadline=60.0
        )


def test_another_machine_is_asked_through_the_environment_s_proxy(monkeypatch):
    with ChatStandIn(lambda body: "hi") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert ChatServer("http://model.invalid/v1", "m").ask(HELLO, **SHORT).text == "hi"
    assert proxy.headers[0]["Host"] == "model.invalid"


def test_this_machine_is_asked_without_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert answer(lambda body: "hi").text == "hi"


def test_an_error_that_comes_with_status_200_is_one(quick):
    with pytest.raises(ChatServerError, match="answered with an error: 'overloaded'"):
        answer(lambda body: {"error": "overloaded"}, attempts=2)


@pytest.mark.parametrize(
    "broken",
    [
        {"error": {"message": "overloaded"}, "choices": []},
        {"choices": [{"message": {"content": "half an"}, "finish_reason": "error"}]},
        {"choices": [{"message": {"content": "half an"}, "finish_reason": "abort"}]},
        {"choices": [{"message": {"content": ""}, "finish_reason": "stop", "error": {"code": 503, "message": "gone"}}]},
    ],
)
def test_a_reply_that_the_server_broke_off_is_asked_for_again(broken, quick):
    replies = [broken]
    reply = answer(lambda body: replies.pop() if replies else "hi")
    assert (reply.text, reply.tries) == ("hi", 2)


def test_an_error_s_own_code_says_whether_another_try_could_succeed():
    with pytest.raises(ChatServerError, match=r"answered with an error: .*no credits") as found:
        answer(lambda body: {"error": {"code": 402, "message": "no credits"}})
    assert (found.value.status, found.value.lasting) == (402, True)


def test_a_client_that_is_closed_breaks_off_those_who_wait():
    with ChatStandIn(lambda body: "hi", 2.0) as server:
        client = ChatServer(server.url, "m")
        threading.Timer(0.2, client.close).start()
        with pytest.raises(ChatServerError, match="is no longer asked"):
            client.ask(HELLO, **SHORT)


def test_all_of_an_answer_is_read():
    call = {"type": "function", "id": "1", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
    reply = answer(lambda body: message, finish_reason="tool_calls")
    assert (reply.text, reply.thought, reply.calls) == ("", "hm", (("look", '{"at": "é"}'),))
    assert (reply.finish_reason, reply.model) == ("tool_calls", "the-model-2026")
    assert (reply.prompt_tokens, reply.reply_tokens) == (7, 3)


def test_a_server_that_counts_nothing_is_read_too():
    assert answer(lambda body: {"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}]}).text == "hi"


def test_no_more_requests_are_under_way_than_allowed():
    with ChatStandIn(lambda body: "hi", *[0.05] * 12) as server:
        client = ChatServer(server.url, "m", max_requests=3)
        asking = [
            threading.Thread(
                target=client.ask,
                args=(HELLO,),
                kwargs=SHORT,
            )
            for _ in range(12)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        client.close()
    assert len(server.bodies) == 12
    assert server.most_under_way <= 3


def test_a_deep_copy_shares_the_connections_and_a_pickled_one_has_its_own():
    with ChatStandIn(lambda body: "hi") as server:
        client = ChatServer(server.url, "m")
        client.open()
        assert copy.deepcopy(client) is client
        other = pickle.loads(pickle.dumps(client))
        assert other.ask(HELLO, **SHORT).text == "hi"
        client.close()
        other.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/openai/v1/chat/completions", "https://h/openai/v1/chat/completions"),
        ("https://h/deployments/d?api-version=2", "https://h/deployments/d/chat/completions?api-version=2"),
    ],
)
def test_an_address_is_completed(url, path):
    assert ChatServer(url, "m").url == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "h:8000"}, "url must begin with http:// or https://"),
        ({"url": "http://me:secret@h"}, "url must not hold a user, a password or a key"),
        ({"url": "ftp://me:secret@h"}, "url must not hold a user, a password or a key"),
        ({"url": "http://h/v1?version=2&api_key=secret"}, "url must not hold a user, a password or a key"),
        ({"url": "me:secret@h"}, "url must begin with http:// or https://"),
        ({"url": "http://h:port"}, "url must name a host, and a port by its number"),
        ({"fields": {"since": date(2026, 1, 1)}}, "fields must be what JSON can hold"),
        ({"fields": {"top_p": math.nan}}, "fields must be what JSON can hold"),
        ({"model": ""}, "model must be the server's name of a model"),
        ({"fields": {"messages": []}}, "fields must not set 'messages'"),
        ({"timeout": 0.0}, "timeout must be >= 0.001"),
        ({"attempts": 0}, "attempts must be >= 1"),
    ],
)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(ValueError, match=message) as found:
        ChatServer(**{"url": "http://h", "model": "m"} | arguments)
    assert "secret" not in str(found.value)
