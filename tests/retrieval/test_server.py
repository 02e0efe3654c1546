import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.errors import RunError
from gigpo_lightning.retrieval import HttpRetriever, Passage
from gigpo_lightning.retrieval.limits import Limits
from gigpo_lightning.retrieval.messages import parse_answer, write_answer
from gigpo_lightning.retrieval.server import main
from tests.engines.real_server import free_port
from tests.retrieval.troubled_server import EchoRetriever, TroubledServer, echoed

START = "from gigpo_lightning.retrieval.server import main; main()"
BM25 = "gigpo_lightning.retrieval.Bm25Retriever"
ECHO = "tests.retrieval.troubled_server.EchoRetriever"
HTTP = "gigpo_lightning.retrieval.HttpRetriever"


@pytest.fixture(scope="module")
def server() -> Iterator[TroubledServer]:
    started = TroubledServer()
    yield started
    started.close()


def call(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, object]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def retrieve(url: str, **asked: object) -> tuple[int, object]:
    return call(url, "POST", "/retrieve", json.dumps(asked).encode())


def test_both_forms_are_answered_with_a_list_a_query(server) -> None:
    hit = {"document": {"id": "0", "contents": '"on a"\na is\nrank 0'}, "score": 1.0}
    assert retrieve(server.url, query="a", topk=1, return_scores=True) == (200, {"result": [[hit]]})
    assert retrieve(server.url, queries=["a", "a"], topk=1, return_scores=True) == (200, {"result": [[hit], [hit]]})


def test_without_scores_documents_come_alone(server) -> None:
    document = {"id": "0", "contents": '"on a"\na is\nrank 0'}
    assert retrieve(server.url, queries=["a"], topk=1, return_scores=False) == (200, {"result": [[document]]})
    assert retrieve(server.url, query="a", topk=1) == (200, {"result": [[document]]})


@pytest.mark.parametrize("asked", [{"query": "a"}, {"query": "a", "topk": None}])
def test_a_request_that_does_not_say_gets_three_passages(server, asked) -> None:
    _, answer = retrieve(server.url, **asked)
    assert len(answer["result"][0]) == 3


def test_no_query_gets_no_passages(server) -> None:
    assert retrieve(server.url, queries=[]) == (200, {"result": []})


def test_it_says_that_it_is_well(server) -> None:
    assert call(server.url, "GET", "/health") == (200, {"status": "ok", "retriever": "EchoRetriever"})


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "must have 'query', a string, or 'queries'"),
        ({"query": "a", "queries": ["a"]}, "not both"),
        ({"query": ["a"]}, "'query' must be a string"),
        ({"queries": "a"}, "'queries' a list of strings"),
        ({"queries": ["a", 1]}, "'queries' a list of strings"),
        ({"query": "a", "topk": 0}, "'topk' must be an integer in [1, 1000], got 0"),
        ({"query": "a", "topk": Limits().top_k + 1}, "'topk' must be an integer"),
        ({"query": "a", "topk": True}, "'topk' must be an integer"),
        ({"query": "a", "topk": 1.5}, "'topk' must be an integer"),
        ({"query": "a", "return_scores": "yes"}, "'return_scores' must be true or false, got 'yes'"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server, asked, reason) -> None:
    status, answer = retrieve(server.url, **asked)
    assert status == 400
    assert reason in answer["error"]


@pytest.mark.parametrize(
    "body", [b"query=a", b"\xff", b"[]", b"", b'{"query": "a", "query": "b"}', b'{"query": "a", "topk": NaN}']
)
def test_a_request_that_is_no_json_object_is_refused(server, body) -> None:
    status, answer = call(server.url, "POST", "/retrieve", body)
    assert status == 400
    assert "a request must be" in answer["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/retrieve", 405), ("POST", "/search", 404)])
def test_what_is_not_there_is_refused_in_json(server, method, path, status) -> None:
    found, answer = call(server.url, method, path)
    assert (found, set(answer)) == (status, {"error"})


def test_a_request_beyond_all_measure_is_refused(server) -> None:
    status, answer = retrieve(server.url, query="a" * (1 << 24))
    assert (status, set(answer)) == (413, {"error"})


class Meeting(EchoRetriever):
    """Answers no search before two are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=20)

    def search(self, queries, top_k):
        self.barrier.wait()
        return super().search(queries, top_k)


def test_requests_are_worked_on_at_the_same_time() -> None:
    server = TroubledServer(retriever=Meeting())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda query: retrieve(server.url, query=query), "ab"))
    server.close()
    assert [status for status, _ in found] == [200, 200]


class Broken:
    """Cannot search."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def search(self, queries, top_k):
        raise self.error


@pytest.mark.parametrize(("error", "status"), [(RunError("the index is gone"), 503), (ValueError("a bad line"), 500)])
def test_what_a_retriever_raises_is_not_the_request_s_fault(error, status, caplog) -> None:
    server = TroubledServer(retriever=Broken(error))
    retriever = HttpRetriever(server.url, attempts=1)
    with pytest.raises(RunError, match=f"answered with {status}"):
        retriever.search(["a"], 1)
    retriever.close()
    server.close()
    assert str(error) in caplog.text


def test_a_server_asks_a_server() -> None:
    far = TroubledServer()
    near = TroubledServer(retriever=HttpRetriever(far.url))
    retriever = HttpRetriever(near.url)
    assert retriever.search(["a"], 2) == [[echoed("a", 0), echoed("a", 1)]]
    for each in (retriever, near, near.retriever, far):
        each.close()


passages = st.builds(
    Passage,
    id=st.text(),
    title=st.text(st.characters(exclude_characters="\n")),
    text=st.text(),
    score=st.floats(allow_nan=False),
)


@settings(max_examples=50)
@given(st.lists(st.lists(passages, max_size=3), max_size=3))
def test_what_is_written_is_read_back(found: list[list[Passage]]) -> None:
    # Without a title, a first line would be taken for one.
    found = [
        [each if each.title else replace(each, text=each.text.replace("\n", " ")) for each in row] for row in found
    ]
    answer = json.loads(json.dumps(write_answer(found, scores=True)))
    assert parse_answer(answer, len(found), 3) == found
    documents = json.loads(json.dumps(write_answer(found, scores=False)))
    assert parse_answer(documents, len(found), 3) == [[replace(each, score=0.0) for each in row] for row in found]


def test_the_command_has_its_name(repository_root) -> None:
    project = tomllib.loads((repository_root / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["gigpo-retriever"] == f"{main.__module__}:main"


def test_the_command_serves_a_retriever_until_it_is_told_to_stop(repository_root) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", START, "--port", str(port), "--retriever", ECHO, "--retriever.seconds", "0.001"],
        env=os.environ | {"PYTHONPATH": str(repository_root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr.readline() == f"serving EchoRetriever on http://127.0.0.1:{port}/retrieve\n"
        retriever = HttpRetriever(f"http://127.0.0.1:{port}", first_wait=0.05, attempts=100)
        assert retriever.search(["a"], 1) == [[echoed("a", 0)]]
        retriever.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served_is_found_before_anyone_is(tmp_path, capsys) -> None:
    (tmp_path / "corpus.jsonl").write_text("no json\n")
    with pytest.raises(SystemExit, match="2"):
        main(["--retriever", BM25, "--retriever.corpus_path", str(tmp_path / "corpus.jsonl"), "--port", "0"])
    assert "corpus.jsonl, line 1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"port: 1\nport: 2\n", "the key 'port' stands twice"), ("port: 1".encode("utf-16"), "but is in UTF-16")],
)
def test_a_configuration_is_read_strictly(tmp_path, capsys, content, reason) -> None:
    path = tmp_path / "served.yaml"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(path)])
    said = capsys.readouterr().err
    assert reason in said
    assert str(path) in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--retriever", HTTP, "--retriever.urls", "nowhere"], "urls must begin with http"),
        (["--retriever", "gigpo_lightning.retrieval.Passage"], "Passage"),
        (["--retriever", HTTP, "--retriever.url", "http://h"], "url"),
        ([], "--retriever"),
        (["--retriever", ECHO, "--port", "-1"], "--port"),
        (["--retriever", ECHO, "--top_k", "0"], "--top_k"),
        (["--retriever", ECHO, "--top", "3"], "--top"),
    ],
)
def test_a_wrong_command_is_refused(arguments, reason, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert reason in capsys.readouterr().err
