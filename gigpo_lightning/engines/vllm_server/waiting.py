"""Waiting for vLLM servers: each says what it is before a run trusts it, and a stranger is not waited for."""

import concurrent.futures
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from gigpo_lightning.engines.vllm_server.client import ServerClient, ServerError
from gigpo_lightning.engines.vllm_server.plugin import ARCHITECTURE, PREFIX, PROTOCOL
from gigpo_lightning.errors import Preempted, RunError
from gigpo_lightning.interruption import never
from gigpo_lightning.text import shown

_logger = logging.getLogger(__name__)

_INFO = f"{PREFIX}/info"
_SAY_EVERY = 10.0
"""Seconds between two lines that say who is waited for."""
_GLANCE = 0.2
"""Seconds between two looks at whether the run is to stop."""
_ASK_EVERY = 0.5
"""Seconds from a server's failure to the next question."""
_NOT_YET = (0, 408, 425, 429, 502, 503, 504)
"""What a server, or a proxy before it, may answer while the server starts; 0 is no answer."""


def wait_for_servers(
    client: ServerClient, urls: Sequence[str], wanted: Mapping[str, Any], should_stop: Callable[[], bool] = never
) -> list[dict[str, Any]]:
    """Wait for all servers at once, ``client.timeouts.start`` seconds at most, until each has said what it is.

    Each must serve what ``wanted`` says, the policy's own configuration, as in ``config.json``.

    Returns:
        What each says, as ``checked_info``, in the order of ``urls``.

    Raises:
        Preempted: If the run is asked to stop.
        RunError: If one has not answered in time, refuses the key, or is not fit for this run.
    """
    begun = time.monotonic()
    deadline, next_line = begun + client.timeouts.start, begun + _SAY_EVERY
    infos: dict[str, dict[str, Any]] = {}
    causes: dict[str, ServerError] = {}
    asked = {url: _ask(client, url) for url in urls}
    try:
        while asked:
            concurrent.futures.wait(asked.values(), timeout=_GLANCE, return_when=concurrent.futures.FIRST_COMPLETED)
            if should_stop():
                raise Preempted(f"asked to stop while waiting for the vLLM servers {', '.join(asked)}")
            for url in [url for url, call in asked.items() if call.done()]:
                try:
                    infos[url] = _checked(asked[url].result(), url, wanted)
                    del asked[url]
                except ServerError as error:
                    causes[url] = _passing(error)
                    asked[url] = _ask(client, url, _ASK_EVERY)
            now = time.monotonic()
            for url in asked:
                if now > deadline:
                    raise _given_up(client, url, causes.get(url))
            if asked and now >= next_line:
                next_line = now + _SAY_EVERY
                _logger.info("waiting for %.0f s more at most: %s", deadline - now, _reasons(asked, causes))
    finally:
        for call in asked.values():
            call.cancel()
    return [infos[url] for url in urls]


def checked_info(client: ServerClient, url: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a server, once, what it is: what its route ``info`` says.

    Raises:
        RunError: If it is not there, or not fit for this run; the message says what to do.
    """
    try:
        answer = client.get(url, _INFO, seconds=client.timeouts.connect)
    except ServerError as error:
        raise RunError(str(_passing(error))) from error
    return _checked(answer, url, wanted)


def _checked(info: Any, url: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a server says, if it is fit for this run: no other kind of server, and serving what is wanted."""
    if not isinstance(info, dict) or "protocol" not in info:
        raise RunError(
            f"the vLLM server {url} must be one that this version's gigpo-server started, but answered GET {_INFO} "
            f"with {shown(info)}"
        )
    if info["protocol"] != PROTOCOL:
        raise RunError(
            f"the vLLM server {url} must speak protocol {PROTOCOL} as this version does, got "
            f"{shown(info['protocol'])}: install one version of gigpo-lightning on both sides"
        )
    if info["logprobs_mode"] != "processed_logprobs" or info["weight_transfer"] not in ("folder", "nccl"):
        raise RunError(
            f"the vLLM server {url} must be started with gigpo-server, which sets logprobs_mode and weight_transfer; "
            f"got {info['logprobs_mode']!r} and {info['weight_transfer']!r}"
        )
    ours = {name: wanted.get(name) for name in ARCHITECTURE}
    if info["architecture"] != ours:
        raise RunError(f"the vLLM server {url} must serve the policy's architecture {ours}, got {info['architecture']}")
    return info


def _ask(client: ServerClient, url: str, after: float = 0.0) -> "Future[Any]":
    return client.begin(client.call("GET", url, _INFO, seconds=client.timeouts.connect, after=after))


def _passing(error: ServerError) -> ServerError:
    """The error itself, if the server may only not be there yet."""
    if error.status in (401, 403):
        raise RunError(f"{error}; set VLLM_API_KEY to the secret that it was started with") from error
    if error.stranger or error.status not in _NOT_YET:
        raise RunError(f"{error}; start it with gigpo-server, which adds what training needs") from error
    return error


def _given_up(client: ServerClient, url: str, cause: ServerError | None) -> RunError:
    parts = urlsplit(url)
    return RunError(
        f"{_reasons([url], {url: cause} if cause else {})}; it has been waited for {client.timeouts.start:g} s. "
        f"Start one: gigpo-server MODEL --port {parts.port or (443 if parts.scheme == 'https' else 80)}"
    )


def _reasons(urls: Iterable[str], causes: Mapping[str, ServerError]) -> str:
    return "; ".join(str(causes.get(url, f"the vLLM server {url} has not answered")) for url in urls)
