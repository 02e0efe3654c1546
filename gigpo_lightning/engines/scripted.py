"""An engine whose replies a function writes: exact trajectories for tests and examples."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch

from gigpo_lightning.engines.base import Completion, EngineBase, GenerationRequest
from gigpo_lightning.errors import check_count

Script = Callable[[GenerationRequest], Sequence[int]]


class ScriptedEngine(EngineBase):
    """Replies by a script, with log-probability 0 for every token.

    Args:
        script: Gives the token ids of a request's reply, the stop token included.
        completions_per_poll: How many replies one ``poll`` returns at most: how far episodes drift apart.
    """

    def __init__(self, script: Script, completions_per_poll: int = 4) -> None:
        check_count("completions_per_poll", completions_per_poll)
        self.script = script
        self.completions_per_poll = completions_per_poll
        self.requests: list[GenerationRequest] = []
        self._queue: deque[GenerationRequest] = deque()

    @property
    def max_model_len(self) -> int:
        """Long enough for any test."""
        return 1 << 20

    def start(self, model_folder: str) -> None:
        """Nothing to start."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; ``requests`` keeps every one, in order."""
        self.requests.append(request)
        self._queue.append(request)

    def poll(self) -> list[Completion]:
        """Answer the oldest requests."""
        count = min(self.completions_per_poll, len(self._queue))
        return [self._answer(self._queue.popleft()) for _ in range(count)]

    def cancel(self) -> None:
        """Drop every request that is under way."""
        self._queue.clear()

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Remember the version."""
        self._version = version

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Zeros: a script is certain."""
        return [[0.0] * len(completion) for _, completion in pairs]

    def close(self) -> None:
        """Nothing to end."""

    def _answer(self, request: GenerationRequest) -> Completion:
        ids = tuple(self.script(request))[: request.sampling.max_tokens]
        stopped = bool(ids) and ids[-1] in request.stop_token_ids
        return Completion(
            request_id=request.request_id,
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
            finish_reason="stop" if stopped else "length",
            policy_version=self._version,
        )
