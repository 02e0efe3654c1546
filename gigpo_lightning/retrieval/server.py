"""The command `gigpo-retriever`: any retriever behind HTTP, bound to loopback unless told otherwise."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import jsonargparse
from aiohttp import web

from gigpo_lightning.config_action import StrictConfigFile
from gigpo_lightning.errors import RunError, check_count
from gigpo_lightning.listening import check_free, is_loopback
from gigpo_lightning.retrieval.base import Retriever
from gigpo_lightning.retrieval.connected import listening
from gigpo_lightning.retrieval.limits import Limits
from gigpo_lightning.retrieval.searches import Searches
from gigpo_lightning.strict_json import load_json
from gigpo_lightning.text import shown

_SEARCHES = web.AppKey("searches", Searches)

_logger = logging.getLogger(__name__)


def make_application(
    retriever: Retriever,
    *,
    top_k: int = 3,
    threads: int = 8,
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> web.Application:
    """Make the server's application: ``POST /retrieve`` in Search-R1's form, and ``GET /health``.

    Both of its forms are taken, ``{"query": str}`` and ``{"queries": [str]}``; the answer to either has one list of
    passages a query, and none for an empty list, which Search-R1's client sends when nobody searches. What is wrong
    with a request is answered with 400, 408 or 413 and ``{"error": str}``; a retriever that cannot go on, or not in
    time, with 503, which a client may try again.

    The retriever is asked by as many threads at once as requests may be worked on at the same time.

    Raises:
        ValueError: If ``top_k`` is more than ``limits`` allow.
    """
    check_count("top_k", top_k, 1, limits.top_k, why="limits.top_k is the most")
    application = web.Application(middlewares=[_errors_as_json], client_max_size=limits.body_bytes)
    searches = Searches(retriever, threads)

    async def retrieve(request: web.Request) -> web.Response:
        try:
            queries, wanted, scores = read_request(await _read_body(request, limits), top_k, limits)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        body = await searches.answer(queries, wanted, scores=scores, seconds=limits.seconds)
        return web.Response(body=body, content_type="application/json")

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "retriever": type(retriever).__name__})

    async def end(application: web.Application) -> None:
        searches.end()

    application[_SEARCHES] = searches
    application.router.add_post("/retrieve", retrieve)
    application.router.add_get("/health", health)
    application.on_cleanup.append(end)
    return application


async def _read_body(request: web.Request, limits: Limits) -> bytes:
    """A request's whole body; refused if it cannot be read, is too large, or takes too long to come."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise ValueError(f"a request must come as it is, without a Content-Encoding, got {shown(encoding)}")
    if (request.content_length or 0) > limits.body_bytes:
        raise web.HTTPRequestEntityTooLarge(limits.body_bytes, request.content_length or 0)
    try:
        async with asyncio.timeout(limits.patience):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(reason=f"The body has not come within {limits.patience:g} s") from error
    except (web.RequestPayloadError, aiohttp.ClientPayloadError) as error:
        raise ValueError(f"a request's body must be what its header says: {' '.join(str(error).split())}") from error


def read_request(body: bytes, default_top_k: int, limits: Limits) -> tuple[list[str], int, bool]:
    """Read a request: its queries, how many passages it wants, and whether with scores.

    Raises:
        ValueError: If it has another form, or asks for more than it may; the message says what is wrong.
    """
    try:
        asked = load_json(body)
    except ValueError as error:
        raise ValueError(f"a request must be JSON: {shown(str(error))}") from error
    if not isinstance(asked, dict):
        raise ValueError(f"a request must be a JSON object, got {type(asked).__name__}")
    if ("query" in asked) == ("queries" in asked):
        raise ValueError("a request must have 'query', a string, or 'queries', a list of strings, and not both")
    queries = asked["queries"] if "queries" in asked else [asked["query"]]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError("'query' must be a string, 'queries' a list of strings")
    top_k = asked.get("topk")
    top_k = default_top_k if top_k is None else top_k
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= limits.top_k:
        raise ValueError(f"'topk' must be an integer in [1, {limits.top_k}], got {shown(top_k)}")
    _check_queries(queries, top_k, limits)
    scores = asked.get("return_scores", False)
    if not isinstance(scores, bool):
        raise ValueError(f"'return_scores' must be true or false, got {shown(scores)}")
    return queries, top_k, scores


def _check_queries(queries: list[str], top_k: int, limits: Limits) -> None:
    if len(queries) > limits.queries:
        raise ValueError(f"'queries' must be at most {limits.queries}, got {len(queries)}")
    if len(queries) * top_k > limits.passages:
        raise ValueError(
            f"'topk' times the number of queries must be at most {limits.passages}, got {top_k} x {len(queries)}"
        )
    for number, query in enumerate(queries):
        if len(query) > limits.query_characters:
            raise ValueError(
                f"a query must have at most {limits.query_characters} characters, got {len(query)} in query {number}"
            )
        try:
            query.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a query must be valid Unicode, got a lone surrogate in query {number}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a retriever until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = _parser()
    try:
        given = parser.parse_args(arguments)
    except ValueError as error:  # of a file that --config names
        parser.error(str(error))
    host, port = given.host, int(given.port)  # the standard library takes no subclass of int
    try:
        check_free(host, port)  # before an index is read
        made = parser.instantiate(given)
        retriever: Retriever = made.retriever
        limits: Limits = made.limits
        application = make_application(retriever, top_k=given.top_k, threads=given.threads, limits=limits)
        retriever.search(["what is served"], 1)  # it reads its index before anyone waits
    except (ImportError, OSError, RunError, ValueError) as error:
        parser.error(str(error))
    if not is_loopback(host):
        _logger.warning("%s can be reached from other machines, and nobody is asked for a key", host)
    try:
        asyncio.run(_serve(application, type(retriever).__name__, host, port, limits))
    except OSError as error:  # another server was quicker
        parser.error(str(error))
    if application[_SEARCHES].busy:
        # Python would wait for a thread that cannot be interrupted.
        logging.shutdown()
        os._exit(0)


async def _serve(application: web.Application, name: str, host: str, port: int, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with listening(application, host, port, limits) as used:
        _logger.info("serving %s on http://%s:%d/retrieve", name, host, used)
        await told.wait()


def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="gigpo-retriever",
        allow_abbrev=False,
        description="Serve a retriever over HTTP in Search-R1's form. It asks nobody who they are: let it listen on "
        "loopback, or where only those who may read the passages can reach it.",
    )
    parser.add_argument("--config", action=StrictConfigFile, help="YAML file with any of these")
    parser.add_argument(
        "--retriever",
        type=Retriever,
        required=True,
        help="its class and, as --retriever.NAME, its arguments, such as gigpo_lightning.retrieval.Bm25Retriever and "
        "--retriever.corpus_path",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    port = jsonargparse.typing.restricted_number_type("Port", int, [(">=", 0), ("<=", 65535)])
    parser.add_argument("--port", type=port, default=8000, help="port to listen on")
    parser.add_argument(
        "--top_k", type=jsonargparse.typing.PositiveInt, default=3, help="passages where a request does not say"
    )
    parser.add_argument(
        "--threads", type=jsonargparse.typing.PositiveInt, default=8, help="requests worked on at the same time"
    )
    parser.add_class_arguments(Limits, "limits")
    return parser


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RunError as error:
        _logger.warning("%s", error)
        return web.json_response({"error": str(error)}, status=503)
    except web.HTTPException as error:
        too_large = isinstance(error, web.HTTPRequestEntityTooLarge)  # its text names the limit
        return web.json_response({"error": error.text if too_large else error.reason}, status=error.status)
