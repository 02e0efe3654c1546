"""What a retrieval server refuses, gives up and closes; on real sockets, with nobody who waits for a clock in vain."""

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gigpo_lightning.errors import RunError
from gigpo_lightning.retrieval import HttpRetriever
from gigpo_lightning.retrieval.limits import Limits
from gigpo_lightning.retrieval.server import make_application
from tests.retrieval.bounded_server import BoundedServer, HeldRetriever
from tests.retrieval.troubled_server import EchoRetriever, echoed

START = "from gigpo_lightning.retrieval.server import main; main()"
QUERY = b'{"query": "a"}'
HEADER = b"POST /retrieve HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def serve() -> Iterator[type[BoundedServer]]:
    servers = []

    def start(*arguments, **options):
        servers.append(BoundedServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[BoundedServer]:
    started = BoundedServer(queries=4, query_characters=10, top_k=5, passages=12, body_bytes=1 << 16)
    yield started
    started.close()


def connect(server: BoundedServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def whole_answer(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def post(server: BoundedServer, body: bytes, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/retrieve", body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"queries": ["a"] * 5}, "'queries' must be at most 4, got 5"),
        ({"query": "a" * 11}, "a query must have at most 10 characters, got 11 in query 0"),
        ({"query": "a", "topk": 6}, "'topk' must be an integer in [1, 5], got 6"),
        ({"queries": ["a"] * 3, "topk": 5}, "'topk' times the number of queries must be at most 12, got 5 x 3"),
        ({"query": "a", "topk": -1}, "'topk' must be an integer in [1, 5], got -1"),
        ({"query": "a", "topk": "1"}, "'topk' must be an integer in [1, 5], got '1'"),
        ({"query": "a", "topk": 10**4000}, "'topk' must be an integer in [1, 5], got 1000"),
        ({"query": "a", "topk": float("nan")}, "a request must be JSON: 'NaN is no JSON'"),
        ({"query": "a", "topk": float("-inf")}, "a request must be JSON: '-Infinity is no JSON'"),
        ({"query": "a", "return_scores": None}, "'return_scores' must be true or false, got None"),
        ({"queries": ["a", "\ud83d"]}, "a query must be valid Unicode, got a lone surrogate in query 1"),
        ({"queries": [["a"]]}, "'query' must be a string, 'queries' a list of strings"),
        ({"queries": None}, "'query' must be a string, 'queries' a list of strings"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_in_one_short_line(server, asked, reason):
    status, answer = post(server, json.dumps(asked).encode())
    assert (status, list(answer)) == (400, ["error"])
    assert answer["error"].startswith(reason)
    assert len(answer["error"]) < 400
    assert "\n" not in answer["error"]


def test_what_is_within_the_limits_is_answered(server):
    asked = {"queries": ["a" * 10] * 4, "topk": 3}
    status, answer = post(server, json.dumps(asked).encode())
    assert (status, [len(found) for found in answer["result"]]) == (200, [3] * 4)


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"query": ' * 6_000, b'{"x": ' + b"9" * 5000 + b"}"])
def test_json_that_no_parser_takes_is_refused(server, body):
    status, answer = post(server, body)
    assert status == 400
    assert answer["error"].startswith("a request must be JSON")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "nonsense"])
@pytest.mark.parametrize(
    "body",
    [QUERY, gzip.compress(QUERY), gzip.compress(b"a" * (1 << 24))],
    ids=["a false claim", "true", "a bomb"],  # bytes with the time of compression differ between two processes
)
def test_what_claims_to_be_compressed_is_refused(server, encoding, body):
    status, answer = post(server, body, Content_Encoding=encoding)
    assert status == 400
    assert "without a Content-Encoding, got" in answer["error"]
    assert post(server, QUERY, Content_Encoding="identity")[0] == 200


def test_a_body_that_says_that_it_is_too_large_is_not_waited_for(server):
    with connect(server) as connection:
        connection.sendall(HEADER + b"Content-Length: 1000000000000\r\n\r\n")
        assert b" 413 " in connection.recv(1 << 16).splitlines()[0]


def test_a_body_of_many_parts_is_refused_when_it_is_too_large(server):
    with connect(server) as connection:
        connection.sendall(HEADER + b"Transfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3)
        answer = connection.recv(1 << 16)
    assert b" 413 " in answer.splitlines()[0]
    assert b"Maximum request body size 65536 exceeded" in answer


def test_chunks_that_are_none_are_refused(server):
    with connect(server) as connection:
        connection.sendall(HEADER + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n")
        assert b" 400 " in whole_answer(connection).splitlines()[0]


@pytest.mark.parametrize("sent", [b"", b"POST /retr", HEADER, b"\x16\x03\x01"])
def test_a_client_that_never_ends_its_header_is_let_go(serve, sent):
    with connect(serve(patience=0.2)) as connection:
        connection.sendall(sent)
        whole_answer(connection)  # ends


def test_a_client_that_sends_its_header_bit_by_bit_is_let_go(serve):
    with connect(serve(patience=0.2)) as connection:
        connection.sendall(HEADER)
        connection.settimeout(0.02)
        for _ in range(3000):
            try:
                connection.sendall(b"X: y\r\n")
                assert connection.recv(1) == b""
                return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("it is still listened to")


def test_a_client_that_never_ends_its_body_is_told_and_let_go(serve):
    with connect(serve(patience=0.2, seconds=0.2)) as connection:
        connection.sendall(HEADER + b"Content-Length: 100\r\n\r\n{")
        answer = whole_answer(connection)
    assert b" 408 " in answer.splitlines()[0]
    assert b"The body has not come within 0.2 s" in answer


@pytest.mark.slow
def test_a_client_that_does_not_read_its_answer_is_let_go(serve):
    server = serve(patience=0.1, seconds=0.5, connections=1)
    with connect(server) as connection:
        body = json.dumps({"queries": ["a" * 1000] * 400, "topk": 100}).encode()
        connection.sendall(HEADER + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connection.recv(1)
        # There is room for one connection alone.
        retriever = HttpRetriever(server.url, first_wait=0.02, longest_wait=0.1, attempts=1000)
        assert retriever.search(["a"], 1) == [[echoed("a", 0)]]
        retriever.close()


def test_an_idle_connection_is_let_go(serve):
    with connect(serve(seconds=0.2)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole_answer(connection).startswith(b"HTTP/1.1 200")


def test_more_connections_than_allowed_are_refused_until_one_ends(serve):
    server = serve(connections=3, patience=1000.0)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1 << 16)
        with connect(server) as refused:
            answer = whole_answer(refused)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.split(b"\r\n\r\n")[1]) == {"error": "more than 3 connections are open"}
    retriever = HttpRetriever(server.url, first_wait=0.02, longest_wait=0.1, attempts=1000)
    assert retriever.search(["a"], 1) == [[echoed("a", 0)]]
    retriever.close()


def test_a_request_that_takes_too_long_can_be_made_again_later(serve):
    held = HeldRetriever()
    status, answer = post(serve(held, seconds=0.2), QUERY)
    held.may_go_on.release(10)
    assert (status, answer) == (503, {"error": "a request must be answered within 0.2 s, but is not; ask for less"})


def test_work_ends_when_its_client_leaves(serve):
    held = HeldRetriever()
    server = serve(held, threads=1)
    body = json.dumps({"queries": ["a"] * 1000}).encode()
    with connect(server) as first, connect(server) as waiting:
        first.sendall(HEADER + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert held.begun.acquire(timeout=60)
        waiting.sendall(HEADER + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    # Both are gone. The server has taken notice when a later connection is answered, which it hears of after that.
    assert post_health(server) == 200
    assert post_health(server) == 200
    held.may_go_on.release(100)
    assert post(server, QUERY)[0] == 200
    assert held.searched == 64 + 1


def post_health(server: BoundedServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_passage_more_than_asked_for_by_default_is_refused_at_the_start():
    with pytest.raises(ValueError, match=r"top_k must be in \[1, 2\], got 3: limits.top_k is the most"):
        make_application(EchoRetriever(), top_k=3, limits=Limits(top_k=2))


@pytest.mark.parametrize(
    "limits", [{"queries": 0}, {"connections": 0}, {"seconds": 0.0}, {"seconds": float("inf")}, {"patience": -1.0}]
)
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(ValueError, match=f"limits.{next(iter(limits))} must be"):
        Limits(**limits)


def test_a_run_is_told_what_it_asked_too_much(server):
    retriever = HttpRetriever(server.url)
    with pytest.raises(RunError, match=r"answered with 400: .*a query must have at most 10 characters"):
        retriever.search(["a" * 11], 1)
    retriever.close()


@pytest.mark.slow
def test_the_command_ends_at_once_under_load_whatever_its_retriever_does(repository_root):
    options = ["--retriever", "tests.retrieval.bounded_server.StuckRetriever"]
    process = subprocess.Popen(
        [sys.executable, "-c", START, "--port", "0", *options, "--threads", "2"],
        env=os.environ | {"PYTHONPATH": str(repository_root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.kill)
        port = int(process.stderr.readline().rsplit(":", 1)[1].split("/")[0])
        for number in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            whole = HEADER + b"Content-Length: %d\r\n\r\n" % len(QUERY) + QUERY
            connection.sendall(whole if number % 2 else whole[:-1])
        assert process.stderr.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
