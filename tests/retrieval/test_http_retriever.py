import asyncio
import copy
import multiprocessing
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from gigpo_lightning.errors import RunError
from gigpo_lightning.retrieval import HttpRetriever, Retriever
from tests.retrieval.troubled_server import TroubledServer, echoed

Serve = Callable[..., TroubledServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(*arguments, **options) -> TroubledServer:
        servers.append(TroubledServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ask() -> Iterator[Callable[..., HttpRetriever]]:
    made = []

    def make(*servers: TroubledServer | str, **options: object) -> HttpRetriever:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        made.append(HttpRetriever(urls, **({"first_wait": 0.02, "pause": 0.2} | options)))
        return made[-1]

    yield make
    for retriever in made:
        retriever.close()


def first(times: int, fault: object) -> Callable[[int], object]:
    """A fault of the first few requests."""
    return lambda count: fault if count <= times else None


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def nobody() -> str:
    """An address of loopback that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_it_is_a_retriever() -> None:
    assert isinstance(HttpRetriever("http://127.0.0.1:1"), Retriever)


def test_each_query_gets_its_passages_in_order(serve, ask) -> None:
    found = ask(serve()).search(["one", "zwei", "三"], 2)
    assert found == [[echoed(query, 0), echoed(query, 1)] for query in ("one", "zwei", "三")]


def test_queries_travel_together(serve, ask) -> None:
    server = serve()
    ask(server).search(["a", "b"], 3)
    assert server.asked == [{"queries": ["a", "b"], "topk": 3, "return_scores": True}]


def test_the_form_query_sends_one_each(serve, ask) -> None:
    server = serve()
    found = ask(server, form="query").search(["a", "b"], 1)
    assert found == [[echoed("a", 0)], [echoed("b", 0)]]
    wanted = [{"query": query, "topk": 1, "return_scores": True} for query in "ab"]
    assert sorted(server.asked, key=lambda asked: asked["query"]) == wanted


def test_a_long_search_is_cut_into_batches_and_put_together_in_order(serve, ask) -> None:
    server = serve()
    queries = [f"query {number}" for number in range(10)]
    found = ask(server, batch_size=3).search(queries, 1)
    assert [passages[0].title for passages in found] == [f"on {query}" for query in queries]
    assert sorted(len(asked["queries"]) for asked in server.asked) == [1, 3, 3, 3]


def test_no_query_asks_nobody(ask) -> None:
    assert ask(nobody()).search([], 3) == []


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, "drop", "cut"])
def test_what_fails_in_passing_is_asked_again(serve, ask, fault) -> None:
    server = serve(first(2, fault))
    retriever = ask(server)
    assert retriever.search(["a"], 1) == [[echoed("a", 0)]]
    assert len(server.asked) == 3


def test_a_server_that_is_too_slow_once_is_asked_again(serve, ask) -> None:
    server = serve(first(1, 5.0))
    assert ask(server, timeout=0.2).search(["a"], 1) == [[echoed("a", 0)]]
    assert len(server.asked) >= 2  # more where the machine is slower still


@pytest.mark.parametrize("fault", [1000.0, "trickle"])
def test_the_deadline_ends_a_search_however_slowly_it_is_answered(serve, ask, fault) -> None:
    retriever = ask(serve(lambda count: fault), deadline=0.3, timeout=1000.0)
    with pytest.raises(RunError, match=r"has not answered within 0\.\d+ s; given up after 1 of at most 10 attempts"):
        retriever.search(["a"], 1)


def test_the_deadline_holds_for_those_that_wait_for_their_turn(serve, ask) -> None:
    retriever = ask(serve(lambda count: 1000.0), max_requests=1, form="query", deadline=0.3, timeout=1000.0)
    with pytest.raises(RunError, match="given up"):
        retriever.search(list("abcdef"), 1)


def test_no_more_requests_are_under_way_than_allowed(serve, ask) -> None:
    under_way, most = set(), []

    def count(number: int) -> float:
        under_way.add(number)
        most.append(len(under_way))
        threading.Timer(0.05, under_way.discard, [number]).start()
        return 0.06

    ask(serve(count), max_requests=2, form="query").search(list("abcdef"), 1)
    assert max(most) == 2


def test_a_retriever_that_stays_down_is_one_error_with_address_attempts_and_cause(ask) -> None:
    url = nobody()
    with pytest.raises(RunError) as caught:
        ask(url, attempts=3).search(["a"], 1)
    message = str(caught.value)
    assert f"{url}/retrieve" in message
    assert "after 3 of at most 3 attempts" in message
    assert "Cannot connect" in message
    assert "gigpo-retriever" in message


def test_what_a_failing_server_says_is_in_the_error(serve, ask) -> None:
    with pytest.raises(RunError, match=r"answered with 500: .*to order.* given up after 2 of"):
        ask(serve(lambda count: 500), attempts=2).search(["a"], 1)


def test_a_request_that_is_refused_is_not_made_again(serve, ask) -> None:
    server = serve(lambda count: 404)
    with pytest.raises(RunError, match=r"answered with 404: .*to order"):
        ask(server).search(["a"], 1)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>busy</html>", "did not answer with JSON .*<html>busy"),
        (b'{"result": [[', "did not answer with JSON"),
        (b"\xff\xfe", "did not answer with JSON"),
        (b'{"detail": "no"}', "an object with a list 'result', got {'detail': 'no'}"),
        (b'{"result": []}', "a list of passages for each of 1 queries, got 0"),
        (b'{"result": [{"document": {}}]}', r"result\[0\] must be a list"),
        (b'{"result": [[7]]}', r"result\[0\]\[0\]: a document must be an object"),
        (b'{"result": [[{"document": {"id": 1}, "score": 1}]]}', r"result\[0\]\[0\]: a document must have 'contents'"),
        (b'{"result": [[{"document": "a", "score": "high"}]]}', "a score must be a number, got 'high'"),
        (b'{"result": [[{"id": [], "contents": ""}]]}', "'id' must be a string"),
    ],
)
def test_a_malformed_answer_is_an_error_that_says_what_is_wrong(serve, ask, body, reason) -> None:
    server = serve(lambda count: body)
    with pytest.raises(RunError, match=reason) as caught:
        ask(server).search(["a"], 1)
    assert server.url in str(caught.value)
    assert len(server.asked) == 1


def test_answers_without_scores_are_taken(serve, ask) -> None:
    body = b'{"result": [[{"id": 7, "contents": "\\"T\\"\\nx"}, {"id": "8", "title": "U", "text": "y"}, "z"]]}'
    [[one, two, three]] = ask(serve(lambda count: body)).search(["a"], 3)
    assert (one.id, one.title, one.text, one.score) == ("7", "T", "x", 0.0)
    assert (two.id, two.title, two.text) == ("8", "U", "y")
    assert (three.id, three.title, three.text) == ("", "", "z")


def test_more_passages_than_asked_for_are_cut_off(serve, ask) -> None:
    body = b'{"result": [["a", "b", "c"]]}'
    [found] = ask(serve(lambda count: body)).search(["a"], 2)
    assert [passage.text for passage in found] == ["a", "b"]


def test_servers_are_asked_in_turn(serve, ask) -> None:
    servers = [serve(), serve(), serve()]
    retriever = ask(*servers)
    for _ in range(6):
        retriever.search(["a"], 1)
    assert [len(server.asked) for server in servers] == [2, 2, 2]


def test_a_failed_server_is_left_out_for_a_while_and_then_asked_again(serve, ask, monkeypatch) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("gigpo_lightning.retrieval.http_retriever.time", clock)
    bad, good = serve(first(1, 500)), serve()
    retriever = ask(bad, good, pause=30.0)
    while not bad.asked:
        retriever.search(["a"], 1)
    for _ in range(4):
        retriever.search(["a"], 1)
    assert len(bad.asked) == 1
    now = 30.0
    for _ in range(2):
        retriever.search(["a"], 1)
    assert len(bad.asked) == 2


def test_another_server_is_asked_without_waiting(serve, ask) -> None:
    good = serve()
    retriever = ask(nobody(), good, first_wait=1000.0, longest_wait=1000.0)
    for _ in range(2):
        assert retriever.search(["a"], 1) == [[echoed("a", 0)]]


def test_a_server_that_comes_back_is_found(serve, ask) -> None:
    server = serve()
    retriever = ask(server, attempts=100)
    retriever.search(["a"], 1)
    server.close()
    threading.Timer(0.3, serve, kwargs={"port": server.port}).start()
    assert retriever.search(["b"], 1) == [[echoed("b", 0)]]


def test_waits_double_up_to_the_longest_and_vary(ask, monkeypatch) -> None:
    waits = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("gigpo_lightning.retrieval.http_retriever.asyncio.sleep", noted)
    with pytest.raises(RunError):
        ask(nobody(), attempts=6, first_wait=1.0, longest_wait=5.0, deadline=1000.0).search(["a"], 1)
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, (1, 2, 4, 5, 5), strict=True))
    assert len(set(waits)) == 5


def test_many_threads_may_search_at_once(serve, ask) -> None:
    retriever = ask(serve(lambda count: 500 if count % 7 == 0 else None))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: retriever.search([f"{number}"], 1), range(60)))
    assert found == [[[echoed(f"{number}", 0)]] for number in range(60)]


def test_a_deep_copy_is_the_object_itself(serve, ask) -> None:
    retriever = ask(serve())
    assert copy.deepcopy({"retriever": retriever})["retriever"] is retriever


def test_a_pickled_one_searches_with_the_same_settings(serve, ask) -> None:
    retriever = ask(serve(), attempts=7, form="query")
    retriever.search(["a"], 1)
    other = pickle.loads(pickle.dumps(retriever))
    assert (other.urls, other.attempts, other.form) == (retriever.urls, 7, "query")
    assert other.search(["b"], 1) == [[echoed("b", 0)]]
    other.close()


def search_in_child(retriever: HttpRetriever, connection) -> None:
    connection.send(retriever.search(["child"], 1))


def test_a_forked_process_opens_its_own_connections_and_leaves_its_parent_s_alone(serve, ask) -> None:
    retriever = ask(serve(), attempts=1, timeout=5.0)
    retriever.search(["a"], 1)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=search_in_child, args=(retriever, theirs))
    child.start()
    try:
        assert ours.poll(20)
        assert ours.recv() == [[echoed("child", 0)]]
    finally:
        child.kill()
        child.join()
    assert retriever.search(["b"], 1) == [[echoed("b", 0)]]


def test_a_closed_one_may_search_again_and_leaves_no_thread(serve) -> None:
    server = serve()
    retriever = HttpRetriever(server.url)
    for _ in range(2):
        assert retriever.search(["a"], 1) == [[echoed("a", 0)]]
        assert "retriever" in thread_names()
        retriever.close()
        retriever.close()
    assert "retriever" not in thread_names()


def test_one_that_is_forgotten_ends_its_thread(serve) -> None:
    server = serve()
    retriever = HttpRetriever(server.url)
    retriever.search(["a"], 1)
    assert "retriever" in thread_names()
    del retriever
    assert "retriever" not in thread_names()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:1", "http://h:1/retrieve"),
        ("http://h:1/", "http://h:1/retrieve"),
        ("https://h/x/search", "https://h/x/search"),
    ],
)
def test_an_address_without_a_path_gets_one(given, address) -> None:
    assert HttpRetriever(given).urls == [address]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"urls": []}, "urls must name at least one"),
        ({"urls": ["localhost:8000"]}, "urls must begin with http:// or https://.*'localhost:8000'"),
        ({"urls": "ftp://h"}, "urls must begin"),
        ({"deadline": 0.0}, "deadline must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"attempts": 0}, "attempts must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"max_requests": 0}, "max_requests must be >= 1"),
        ({"first_wait": -1.0}, "first_wait must be >= 0"),
    ],
)
def test_a_wrong_argument_is_refused(options, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        HttpRetriever(**({"urls": "http://h"} | options))


def test_wrong_questions_are_refused(ask) -> None:
    retriever = ask("http://h")
    with pytest.raises(ValueError, match="top_k must be >= 1"):
        retriever.search(["a"], 0)
    with pytest.raises(ValueError, match="queries must be a list of strings, got 'abc'"):
        retriever.search("abc", 1)
