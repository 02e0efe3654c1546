"""One vLLM server of an engine's: what it has been asked, and what it says of its weights."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from gigpo_lightning.engines.vllm_server.messages import GENERATE, scores, scoring
from gigpo_lightning.engines.vllm_server.plugin import PREFIX
from gigpo_lightning.engines.weight_proof import Checksums, Shapes, from_json

Ask = Callable[[str, Callable[[str], Any]], Any]
"""Asks a server, at a path, what is made with the name of the engine's adapter; raises ``RunError``."""


@dataclass(slots=True, kw_only=True)
class VLLMServer:
    """One server and what it has been asked; ``lost`` says why it takes no part any more, if so."""

    url: str
    ask: Ask
    lost: str = ""
    running: "dict[str, Future[Any]]" = field(default_factory=dict)

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """As ``RolloutEngine.score``, by this server.

        Raises:
            RunError: If it does not answer.
        """
        found = []
        for prompt, completed in pairs:
            ids = [*prompt, *completed]
            answer = self.ask(GENERATE, lambda adapter, ids=ids: scoring(ids, adapter))  # type: ignore[misc]
            found.append(scores(answer, ids)[len(prompt) :])
        return found

    def show_weights(self, shapes: Shapes, seed: int | None) -> Checksums:
        """The checksums of the weights that its workers compute with.

        Raises:
            RunError: If it does not answer.
        """
        wanted = {"shapes": {name: list(shape) for name, shape in shapes.items()}, "seed": seed}
        answer = self.ask(f"{PREFIX}/show_weights", lambda adapter: {**wanted, "adapter": adapter})
        return [pair for of_worker in answer["workers"] for pair in from_json(of_worker)]

    def give_up_calls(self) -> list[str]:
        """Break off all that it has been asked for; the names of the requests."""
        names = list(self.running)
        for call in reversed(self.running.values()):  # a connection that is freed early would carry one that waits
            call.cancel()
        self.running.clear()
        return names
