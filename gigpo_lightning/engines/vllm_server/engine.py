"""vLLM servers on other devices or hosts: tokens in and out over HTTP, weights by vLLM's own weight transfer."""

import itertools
import json
import logging
import os
import queue
import secrets
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.engines.base import Completion, EngineBase, GenerationRequest
from gigpo_lightning.engines.vllm_server.client import ServerClient, ServerError, ServerTimeouts
from gigpo_lightning.engines.vllm_server.messages import GENERATE, completion, generation, reason_to_refuse
from gigpo_lightning.engines.vllm_server.plugin import PREFIX
from gigpo_lightning.engines.vllm_server.replica import VLLMServer
from gigpo_lightning.engines.vllm_server.waiting import checked_info, wait_for_servers
from gigpo_lightning.engines.vllm_server.weight_transfer import FolderTransfer, NCCLTransfer, WeightTransfer
from gigpo_lightning.errors import RunError, check_count
from gigpo_lightning.interruption import never
from gigpo_lightning.listening import is_loopback

_logger = logging.getLogger(__name__)
_GLANCE = 0.002
"""Seconds between two checks for other work while servers write."""


class VLLMServerEngine(EngineBase):
    """Writes replies with vLLM servers that ``gigpo-server`` has started, on this machine or others.

    Every reply names the weights that wrote it, and a reply by other weights is refused: a server that restarted, or
    that another run trains with, is never sampled from. When a server is lost in the middle of a rollout, the others
    write its replies; the next ``load_weights`` takes it back if it answers again. Both sides read the secret from the
    environment variable ``VLLM_API_KEY``.

    Args:
        urls: The servers' addresses.
        weights_folder: Folder that this machine and the servers read, for weights that travel through one; default: a
            temporary folder, which serves for servers on this machine.
        address: This machine's, as the servers see it, for weights that travel from GPU to GPU.
        max_model_len: Longest prompt plus reply, in tokens; default: what the servers allow.
        max_connections: Requests under way at the same time, to each server.
        timeouts: How long a server may take.

    Raises:
        ValueError: If there is no URL, one is not ``http://host:port``, or ``max_connections`` is not positive.
    """

    def __init__(
        self,
        urls: Sequence[str] = ("http://127.0.0.1:8000",),
        weights_folder: str | None = None,
        address: str = "127.0.0.1",
        max_model_len: int | None = None,
        max_connections: int = 256,
        timeouts: ServerTimeouts = ServerTimeouts(),  # noqa: B008  frozen
    ) -> None:
        if not urls:
            raise ValueError("urls must name at least one server, got none")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
                raise ValueError(f"urls must look like http://127.0.0.1:8000, got {url!r}")
        for name, value in (("max_connections", max_connections), ("max_model_len", max_model_len)):
            check_count(name, 1 if value is None else value)
        self._weights_folder = None if weights_folder is None else os.path.abspath(weights_folder)
        self._address = address
        self._max_connections = max_connections
        self._timeouts = timeouts
        self._servers = [
            VLLMServer(url=url.rstrip("/"), ask=partial(self._ask, url.rstrip("/"))) for url in dict.fromkeys(urls)
        ]
        self._run = secrets.token_hex(4)  # labels weights, so that two runs on one server do not mix them up
        self._asked = itertools.count()  # numbers requests: a cancelled one must not share its name with a later one
        self._client: ServerClient | None = None
        self._transfer: WeightTransfer | None = None
        self._asked_length = max_model_len
        self._model: dict[str, Any] = {}
        self.max_model_len = 0
        """Longest prompt plus reply, in tokens; 0 before the start."""
        self._max_lora_rank = 0
        self._adapter = ""
        self._requests: dict[str, GenerationRequest] = {}
        self._answers: queue.SimpleQueue[tuple[GenerationRequest, VLLMServer, Any]] = queue.SimpleQueue()

    @property
    def replicas(self) -> tuple[VLLMServer, ...]:
        """The servers that take part; each must be proved to have the weights."""
        return tuple(server for server in self._servers if not server.lost)

    def start(self, model_folder: str) -> None:
        """Wait for the servers, and check that each can do what training needs; a second call does nothing."""
        self.start_unless(model_folder, never)

    def start_unless(self, model_folder: str, should_stop: Callable[[], bool]) -> None:
        """As ``start``, but checks several times a second whether the run is to stop, and logs its waits.

        Raises:
            Preempted: If the run is to stop.
            RunError: If a server does not answer, refuses the key, serves another architecture, or was not started
                by ``gigpo-server``.
        """
        if self._client is not None:
            return
        client = ServerClient(self._timeouts, self._max_connections)
        try:
            self._meet(client, json.loads((Path(model_folder) / "config.json").read_text()), should_stop)
        except BaseException:
            client.close()
            raise
        self._client = client

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            ValueError: If prompt and reply together are longer than the servers' context.
        """
        self._started()
        self._check_length(request, self.max_model_len)
        self._requests[request.request_id] = request
        self._send(request)

    def poll_unless(self, ready: Callable[[], bool]) -> list[Completion]:
        """As ``poll``, but asks now and then whether there is more to submit, and returns at once if so.

        Raises:
            RunError: If the last server is lost, or one refuses a request.
        """
        completions: list[Completion] = []
        while self._requests and (not completions or not self._answers.empty()):
            try:
                answer = self._answers.get(timeout=_GLANCE)
            except queue.Empty:
                if ready():
                    break
                continue
            reply = self._take(*answer)
            if reply is not None:
                completions.append(reply)
        return completions

    def cancel(self) -> None:
        """Drop every request that is under way; a server ends one whose connection is closed."""
        self._requests = {}
        for server in self._servers:
            server.give_up_calls()

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights of every server and forget every cached prefix.

        Raises:
            RuntimeError: If requests are under way.
            RunError: If a server fails.
        """
        transfer = self._transfer
        client, urls = self._idle("load_weights")
        assert transfer is not None
        try:
            if self._max_lora_rank:
                self._name_adapter(client, urls, "", "")
            client.post_all(urls, f"{PREFIX}/pause?mode=abort&clear_cache=true", seconds=self._timeouts.weights)
            transfer.send(urls, named_tensors, self._label(version))
            client.post_all(urls, f"{PREFIX}/resume", seconds=self._timeouts.weights)
        except ServerError as error:
            raise RunError(f"the weights of version {version} did not reach every server: {error}") from error
        self._version = version

    def load_adapter(self, adapter: Adapter, version: int) -> None:
        """Put a LoRA adapter in front of the weights that were loaded last, in place of any other.

        A server that is lost afterwards does not come back: it lost the weights below the adapter.

        Raises:
            RuntimeError: If requests are under way, or a server's ``--max-lora-rank`` is less than the adapter's rank.
            RunError: If a server fails.
        """
        rank = int(adapter.config["r"])
        if rank > self._max_lora_rank:
            raise RuntimeError(
                f"an adapter's rank must be <= the servers' {self._max_lora_rank}, got {rank}: start them with "
                "--enable-lora --max-lora-rank"
            )
        client, urls = self._idle("load_adapter", take_back=False)
        with tempfile.TemporaryDirectory(prefix="gigpo-adapter-", dir=self._weights_folder) as folder:
            adapter.save(folder)
            try:
                self._name_adapter(client, urls, self._label(version), folder)
                payload = {"new_version": self._label(version)}
                client.post_all(urls, f"{PREFIX}/update_weight_version", payload, seconds=self._timeouts.weights)
            except ServerError as error:
                raise RunError(f"the adapter of version {version} did not reach every server: {error}") from error
        self._version = version

    def _name_adapter(self, client: ServerClient, urls: Sequence[str], name: str, folder: str) -> None:
        """Have the servers load an adapter by a name, which requests then ask for; an empty one asks for none."""
        payload = {"name": name, "folder": folder}
        client.post_all(urls, f"{PREFIX}/load_adapter", payload, seconds=self._timeouts.weights)
        self._adapter = name

    def _idle(self, what: str, take_back: bool = True) -> tuple[ServerClient, list[str]]:
        """The servers that take part; from now on the version is -1, until the new weights are whole."""
        client = self._started()
        self._begin_load(what, bool(self._requests))
        if take_back:
            self._take_back_servers(client)
        return client, [server.url for server in self._left()]

    def _left(self) -> tuple[VLLMServer, ...]:
        """The servers that take part, of which there must be one."""
        if not self.replicas:
            raise RunError(f"no vLLM server is left: {'; '.join(server.lost for server in self._servers)}")
        return self.replicas

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token of each completion after its prompt, by the first server."""
        return self.replicas[0].score(pairs)

    def close(self) -> None:
        """End for good; the servers go on. A second call does nothing."""
        if self._transfer is not None:
            self._transfer.close()
            self._transfer = None
        if self._client is not None:
            self._client.close()
            self._client = None
        self._requests = {}

    def _started(self) -> ServerClient:
        if self._client is None:
            raise RuntimeError("the VLLMServerEngine has not been started; the WeightSync callback does that")
        return self._client

    def _label(self, version: int) -> str:
        return f"{self._run}:{version}"

    def _meet(self, client: ServerClient, model: dict[str, Any], should_stop: Callable[[], bool]) -> None:
        """Wait for every server, and agree on what all of them can do."""
        infos = wait_for_servers(client, [server.url for server in self._servers], model, should_stop)
        backends = {info["weight_transfer"] for info in infos}
        if len(backends) > 1:
            raise RunError(f"all vLLM servers must be started with one --weight-transfer, got {sorted(backends)}")
        self._transfer = self._make_transfer(client, backends.pop(), [info["world_size"] for info in infos])
        self._model = model
        shortest = min(info["max_model_len"] for info in infos)
        self.max_model_len = shortest if self._asked_length is None else min(shortest, self._asked_length)
        self._max_lora_rank = min(info["max_lora_rank"] for info in infos)

    def _make_transfer(self, client: ServerClient, backend: str, world_sizes: Sequence[int]) -> WeightTransfer:
        urls = [server.url for server in self._servers]
        far = [url for url in urls if not is_loopback(urlsplit(url).hostname or "")]
        if backend == "nccl":
            if far and is_loopback(self._address):
                raise RunError(f"address must be this machine's as {far[0]} sees it, got {self._address}")
            return NCCLTransfer(client, urls, world_sizes, self._address)
        if far and self._weights_folder is None:
            raise RunError(f"weights_folder must be a folder that {far[0]} reads too, got none")
        return FolderTransfer(client, self._weights_folder)

    def _take_back_servers(self, client: ServerClient) -> None:
        """Let servers that were lost take part again if they answer."""
        for server in self._servers:
            if server.lost and self._transfer is not None and self._transfer.takes_back:
                try:
                    info = checked_info(client, server.url, self._model)
                except RunError as error:
                    _logger.debug("%s", error)
                    continue
                if info["max_model_len"] >= self.max_model_len and info["max_lora_rank"] >= self._max_lora_rank:
                    server.lost = ""

    def _send(self, request: GenerationRequest) -> None:
        """Give a request to the server with the fewest."""
        server = min(self._left(), key=lambda each: len(each.running))
        payload = generation(request, f"{self._run}/{next(self._asked)}/{request.request_id}", self._adapter)
        client = self._started()
        call = client.generate(server.url, GENERATE, payload)
        server.running[request.request_id] = client.begin(call, partial(self._answered, request, server))

    def _answered(self, request: GenerationRequest, server: VLLMServer, answer: "Future[Any]") -> None:
        """Runs in the client's thread."""
        if not answer.cancelled():
            self._answers.put((request, server, answer.exception() or answer.result()))

    def _take(self, request: GenerationRequest, server: VLLMServer, answer: Any) -> Completion | None:
        """The completion that a server's answer holds; None if its request was given to another server."""
        if self._requests.get(request.request_id) is not request or request.request_id not in server.running:
            return None  # from a broken-off rollout or a lost server
        del server.running[request.request_id]
        if isinstance(answer, BaseException) and not isinstance(answer, ServerError):
            raise answer
        if isinstance(answer, ServerError) and 400 <= answer.status < 500:
            raise RunError(str(answer)) from answer
        if isinstance(answer, ServerError):
            lost = str(answer)
        else:
            lost = reason_to_refuse(answer, server.url, self._label(self._version))
        if lost:
            _logger.warning("%s; its requests go to the other servers", lost)
            server.lost = lost
            for other in (request.request_id, *server.give_up_calls()):
                self._send(self._requests[other])
            return None
        del self._requests[request.request_id]
        return completion(answer, request, self._version)

    def _ask(self, url: str, path: str, payload: Callable[[str], Any]) -> Any:
        """Ask one server something that depends on the adapter's name."""
        client = self._started()
        try:
            return client.post(url, path, payload(self._adapter), seconds=self._timeouts.reply)
        except ServerError as error:
            raise RunError(str(error)) from error
