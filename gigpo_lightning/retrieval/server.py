"""The command `gigpo-retriever`: any retriever behind HTTP, bound to loopback unless told otherwise."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jsonargparse
from aiohttp import web

from gigpo_lightning.errors import RunError
from gigpo_lightning.retrieval.base import Retriever
from gigpo_lightning.retrieval.wire import write_answer

LARGEST_TOP_K = 1000
_LARGEST_REQUEST = 1 << 24

_logger = logging.getLogger(__name__)


def make_application(retriever: Retriever, *, top_k: int = 3, threads: int = 8) -> web.Application:
    """Make the server's application: ``POST /retrieve`` in Search-R1's form, and ``GET /health``.

    Both of its forms are taken, ``{"query": str}`` and ``{"queries": [str]}``; the answer to either has one list of
    passages a query. What is wrong with a request is answered with 400 and ``{"error": str}``; a retriever that cannot
    go on, with 503, which a client may try again.

    Args:
        retriever: Asked by several threads at once.
        top_k: Passages of each query where a request does not say.
        threads: Requests that are worked on at the same time.
    """
    application = web.Application(middlewares=[_errors_as_json], client_max_size=_LARGEST_REQUEST)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="retriever")

    async def retrieve(request: web.Request) -> web.Response:
        try:
            queries, wanted, scores = read_request(await request.read(), top_k)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(pool, _answer, retriever, queries, wanted, scores)
        return web.Response(body=body, content_type="application/json")

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "retriever": type(retriever).__name__})

    async def end(application: web.Application) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    application.router.add_post("/retrieve", retrieve)
    application.router.add_get("/health", health)
    application.on_cleanup.append(end)
    return application


def read_request(body: bytes, default_top_k: int) -> tuple[list[str], int, bool]:
    """Read a request: its queries, how many passages it wants, and whether with scores.

    Raises:
        ValueError: If it has another form; the message says what is wrong.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise ValueError(f"a request must be JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ValueError(f"a request must be a JSON object, got {type(asked).__name__}")
    if ("query" in asked) == ("queries" in asked):
        raise ValueError("a request must have 'query', a string, or 'queries', a list of strings, and not both")
    queries = asked["queries"] if "queries" in asked else [asked["query"]]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError("'query' must be a string, 'queries' a list of strings")
    top_k = asked.get("topk")
    top_k = default_top_k if top_k is None else top_k
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= LARGEST_TOP_K:
        raise ValueError(f"'topk' must be an integer in [1, {LARGEST_TOP_K}], got {top_k!r}")
    scores = asked.get("return_scores", False)
    if not isinstance(scores, bool):
        raise ValueError(f"'return_scores' must be true or false, got {scores!r}")
    return queries, top_k, scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a retriever until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        retriever: Retriever = parser.instantiate(given).retriever
        retriever.search(["what is served"], 1)  # whatever it has to read, it reads before anyone waits for it
    except (ImportError, OSError, RunError, ValueError) as error:
        parser.error(str(error))
    application = make_application(retriever, top_k=given.top_k, threads=given.threads)
    _logger.info("serving %s on http://%s:%d/retrieve", type(retriever).__name__, given.host, given.port)
    try:
        web.run_app(application, host=given.host, port=given.port, print=None, access_log=None)
    except OSError as error:  # such as another server's port
        parser.error(str(error))


def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="gigpo-retriever",
        description="Serve a retriever over HTTP in Search-R1's form. It asks nobody who they are: let it listen on "
        "loopback, or where only those who may read the passages can reach it.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these")
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
    return parser


def _answer(retriever: Retriever, queries: list[str], top_k: int, scores: bool) -> bytes:
    passages = retriever.search(queries, top_k) if queries else []
    return json.dumps(write_answer(passages, scores=scores)).encode()


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
        return web.json_response({"error": error.reason}, status=error.status)
