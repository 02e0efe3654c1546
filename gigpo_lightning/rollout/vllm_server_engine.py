"""vLLM servers on other devices or hosts: tokens in and out over HTTP, weights by vLLM's own weight transfer."""

import json
import logging
import math
import queue
import secrets
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout.adapter import Adapter
from gigpo_lightning.rollout.engine import Completion, GenerationRequest
from gigpo_lightning.rollout.vllm_client import ServerClient, ServerError, ServerTimeouts, checked_info, is_loopback
from gigpo_lightning.rollout.vllm_plugin import PREFIX
from gigpo_lightning.rollout.weight_transfer import FolderTransfer, NCCLTransfer, WeightTransfer

_logger = logging.getLogger(__name__)
_GENERATE = "/inference/v1/generate"


@dataclass(slots=True, kw_only=True)
class VLLMServer:
    """One server and what it has been asked.

    Attributes:
        url: Its address.
        score: As ``RolloutEngine.score``, by this server.
        lost: Why it takes no part any more; empty while it does.
        running: Requests that it has.
    """

    url: str
    score: Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], list[list[float]]]
    lost: str = ""
    running: set[str] = field(default_factory=set)


class VLLMServerEngine:
    """Writes replies with vLLM servers that ``gigpo-server`` has started, on this machine or others.

    Every reply names the weights that wrote it, and one by others than were sent is refused: a server that was started
    anew, or that somebody else trains with, is never sampled from. When one of several servers is lost in the middle of
    a rollout, the others write its replies; the next ``load_weights`` takes it back if it answers again. Its secret is
    the environment variable ``VLLM_API_KEY``, here and there.

    Args:
        urls: The servers' addresses.
        weights_folder: Folder that this machine and the servers read, for weights that travel through one; default: a
            temporary folder, which serves for servers on this machine.
        address: This machine's, as the servers see it, for weights that travel from GPU to GPU.
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
        max_connections: int = 256,
        timeouts: ServerTimeouts = ServerTimeouts(),  # noqa: B008  frozen
    ) -> None:
        if not urls:
            raise ValueError("urls must name at least one server, got none")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
                raise ValueError(f"urls must look like http://127.0.0.1:8000, got {url!r}")
        if max_connections < 1:
            raise ValueError(f"max_connections must be >= 1, got {max_connections}")
        self._weights_folder = weights_folder
        self._address = address
        self._max_connections = max_connections
        self._timeouts = timeouts
        self._servers = [
            VLLMServer(url=url.rstrip("/"), score=partial(self._score, url.rstrip("/"))) for url in dict.fromkeys(urls)
        ]
        self._run = secrets.token_hex(4)  # two runs on one server must not take each other's weights for their own
        self._client: ServerClient | None = None
        self._transfer: WeightTransfer | None = None
        self._max_model_len = 0
        self._max_lora_rank = 0
        self._adapter = ""
        self._version = -1
        self._requests: dict[str, GenerationRequest] = {}
        self._answers: queue.SimpleQueue[tuple[GenerationRequest, VLLMServer, Any]] = queue.SimpleQueue()

    @property
    def policy_version(self) -> int:
        """Version of the weights now loaded; -1 before the first ``load_weights``."""
        return self._version

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus reply, in tokens; 0 before the start."""
        return self._max_model_len

    @property
    def replicas(self) -> tuple[VLLMServer, ...]:
        """The servers that take part; each must be proved to have the weights."""
        return tuple(server for server in self._servers if not server.lost)

    def start(self, model_folder: str) -> None:
        """Wait for the servers, and check that each can do what training needs; a second call does nothing.

        Raises:
            RunError: If one does not answer, serves another architecture, or was started otherwise than by
                ``gigpo-server``.
        """
        if self._client is not None:
            return
        self._client = ServerClient(self._timeouts, self._max_connections)
        wanted = json.loads((Path(model_folder) / "config.json").read_text())
        infos = [checked_info(self._client, server.url, wanted) for server in self._servers]
        self._max_model_len = min(info["max_model_len"] for info in infos)
        self._max_lora_rank = min(info["max_lora_rank"] for info in infos)
        backends = {info["weight_transfer"] for info in infos}
        if len(backends) > 1:
            raise RunError(f"all vLLM servers must be started with one --weight-transfer, got {sorted(backends)}")
        self._transfer = self._make_transfer(backends.pop(), [info["world_size"] for info in infos])

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            ValueError: If prompt and reply together are longer than the servers' context.
        """
        self._started()
        if len(request.prompt_ids) + request.sampling.max_tokens > self._max_model_len:
            raise ValueError(
                f"prompt plus max_tokens must be <= max_model_len {self._max_model_len}, got "
                f"{len(request.prompt_ids)} + {request.sampling.max_tokens} in request {request.request_id!r}"
            )
        self._requests[request.request_id] = request
        self._send(request)

    def poll(self) -> list[Completion]:
        """Return what has finished, blocking until at least one has; empty only if nothing is under way.

        Raises:
            RunError: If the last server is lost, or one refuses a request.
        """
        completions: list[Completion] = []
        while self._requests and (not completions or not self._answers.empty()):
            completion = self._take(*self._answers.get())
            if completion is not None:
                completions.append(completion)
        return completions

    def cancel(self) -> None:
        """Drop every request that is under way; the servers end them when the next weights come."""
        self._requests = {}
        for server in self._servers:
            server.running.clear()

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights of every server and forget every cached prefix.

        Raises:
            RuntimeError: If requests are under way.
            RunError: If a server fails.
        """
        transfer = self._transfer
        assert transfer is not None
        client, urls = self._idle("load_weights")
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

        A server that is lost afterwards does not come back: it has lost the weights below the adapter.

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
        """The servers that take part, which from now on have neither the old weights nor yet the new ones.

        Raises:
            RuntimeError: If requests are under way.
            RunError: If no server is left.
        """
        client = self._started()
        if self._requests:
            raise RuntimeError(f"{what} needs an idle engine, but requests are under way")
        self._version = -1
        if take_back:
            self._take_back_servers(client)
        return client, [server.url for server in self.replicas]

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token of each completion after its prompt, by the first server."""
        return self.replicas[0].score(pairs)

    def sleep(self) -> None:
        """Nothing: what the servers compute on is not the trainer's."""

    def wake(self) -> None:
        """Nothing, as for ``sleep``."""

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

    def _make_transfer(self, backend: str, world_sizes: Sequence[int]) -> WeightTransfer:
        client = self._started()
        urls = [server.url for server in self._servers]
        far = [url for url in urls if not is_loopback(url)]
        if backend == "nccl":
            return NCCLTransfer(client, urls, world_sizes, self._address)
        if far and self._weights_folder is None:
            raise RunError(f"weights_folder must be a folder that {far[0]} reads too, got none")
        return FolderTransfer(client, self._weights_folder)

    def _take_back_servers(self, client: ServerClient) -> None:
        """Let servers that were lost take part again if they answer.

        Raises:
            RunError: If none answers.
        """
        for server in self._servers:
            if server.lost:
                try:
                    client.get(server.url, f"{PREFIX}/info", seconds=self._timeouts.connect)
                except ServerError:
                    continue
                server.lost = ""
        if not self.replicas:
            raise RunError(f"no vLLM server is left: {'; '.join(server.lost for server in self._servers)}")

    def _send(self, request: GenerationRequest) -> None:
        """Give a request to the server that has the fewest.

        Raises:
            RunError: If no server is left.
        """
        if not self.replicas:
            raise RunError(f"no vLLM server is left: {'; '.join(server.lost for server in self._servers)}")
        server = min(self.replicas, key=lambda each: len(each.running))
        server.running.add(request.request_id)
        payload = {
            "request_id": f"{self._run}/{request.request_id}",
            "model": self._adapter or None,
            "token_ids": list(request.prompt_ids),
            "sampling_params": {
                "temperature": request.sampling.temperature,
                "max_tokens": request.sampling.max_tokens,
                "seed": request.seed if request.sampling.temperature > 0 else None,
                "stop_token_ids": list(request.stop_token_ids),
                "logprobs": 0,  # of the sampled token alone
                "detokenize": False,
            },
        }
        client = self._started()
        call = client.call("POST", server.url, _GENERATE, payload, seconds=self._timeouts.reply)
        client.begin(call, partial(self._answered, request, server))

    def _answered(self, request: GenerationRequest, server: VLLMServer, answer: "Future[Any]") -> None:
        """Runs in the client's thread."""
        if not answer.cancelled():
            self._answers.put((request, server, answer.exception() or answer.result()))

    def _take(self, request: GenerationRequest, server: VLLMServer, answer: Any) -> Completion | None:
        """The completion that a server's answer holds; None if its request was given to another server.

        Raises:
            RunError: If the server refuses the request, or no other is left.
        """
        if self._requests.get(request.request_id) is not request:
            return None  # of a rollout that was broken off
        server.running.discard(request.request_id)
        if isinstance(answer, BaseException) and not isinstance(answer, ServerError):
            raise answer
        if isinstance(answer, ServerError) and 400 <= answer.status < 500:
            raise RunError(str(answer)) from answer
        lost = str(answer) if isinstance(answer, ServerError) else self._distrust(server, answer)
        if lost:
            if not server.lost:
                _logger.warning("%s; its requests go to the other servers", lost)
                server.lost = lost
            self._send(request)
            return None
        del self._requests[request.request_id]
        choice = answer["choices"][0]
        return Completion(
            request_id=request.request_id,
            token_ids=tuple(choice["token_ids"]),
            logprobs=tuple(token["logprob"] for token in choice["logprobs"]["content"]),
            finish_reason=choice["finish_reason"],
            policy_version=self._version,
        )

    def _distrust(self, server: VLLMServer, answer: dict[str, Any]) -> str:
        """Why a reply cannot be used; empty if it can."""
        choice = answer["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            return f"the vLLM server {server.url} ended a reply with {choice['finish_reason']!r}"
        versions = {span["version"] for span in choice["weight_versions"] or ()}
        if versions != {self._label(self._version)}:
            return (
                f"the vLLM server {server.url} must answer with the weights {self._label(self._version)!r} that it was "
                f"sent, got {sorted(versions)}: it was started anew, or something else trains with it"
            )
        return ""

    def _score(self, url: str, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Have one server score sequences."""
        sampling = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        scores = []
        for prompt, completion in pairs:
            ids = [*prompt, *completion]
            payload = {"model": self._adapter or None, "token_ids": ids, "sampling_params": sampling}
            try:
                answer = self._started().post(url, _GENERATE, payload, seconds=self._timeouts.reply)
            except ServerError as error:
                raise RunError(str(error)) from error
            rows = answer["prompt_logprobs"]
            of_tokens = [
                math.nan if row is None else row[str(token)]["logprob"] for token, row in zip(ids, rows, strict=True)
            ]
            scores.append(of_tokens[len(prompt) :])
        return scores
