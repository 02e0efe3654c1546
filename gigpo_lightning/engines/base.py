"""What an engine is: token ids in, token ids and the sampler's own log-probabilities out."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from gigpo_lightning.engines.weight_proof import Checksums, Shapes
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.prompts.base import Tokenizer


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class SamplingParameters:
    """How replies are drawn. There is no top-p or top-k: below full support they bias the importance ratio.

    Attributes:
        temperature: Softmax temperature; 0 takes the most likely token.
        max_tokens: Longest reply, in tokens, the stop token included.
    """

    temperature: float = 1.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature)
        check_count("max_tokens", self.max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One reply to be written.

    Attributes:
        request_id: Unique among the requests under way.
        prompt_ids: Token ids of the prompt, ``(T,)``.
        sampling: How the reply is drawn.
        stop_token_ids: Tokens that end the reply; the one that did is kept in it.
        seed: Seed of this reply's sampling noise, independent of the batch it shares.
        extras: What the prompt carries beside token ids, by name (``EncodedPrompt.extras``).
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParameters
    stop_token_ids: tuple[int, ...]
    seed: int
    extras: Mapping[str, Any] = field(default_factory=dict)

    def check_extras(self, known: Collection[str] = ()) -> None:
        """Refuse extras that an engine would leave out, because it does not know their names.

        Raises:
            ValueError: If the prompt carries another.
        """
        if unknown := sorted(self.extras.keys() - set(known)):
            raise ValueError(
                f"this engine takes a prompt's token ids and {sorted(known)}, but was given {unknown[0]!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply.

    Attributes:
        request_id: Of the request that it answers.
        token_ids: Sampled ids, the stop token included if one was drawn.
        logprobs: Log-probability of each id under the distribution that it was drawn from, in nats.
        finish_reason: ``"stop"`` or ``"length"``.
        policy_version: Version of the weights that wrote it.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    policy_version: int


@runtime_checkable
class Scorer(Protocol):
    """Scores tokens under its weights."""

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token of each completion after its prompt."""


@runtime_checkable
class ShowsWeights(Protocol):
    """Can prove which weights it has; ``WeightSync`` needs it of an engine or of its replicas."""

    def show_weights(self, shapes: Shapes, seed: int | None) -> Checksums:
        """The pieces of some tensors that it computes with, and their checksums.

        Args:
            shapes: The tensors' whole shapes, by their checkpoint's names, or by those of PEFT for its adapter.
            seed: As of ``weight_proof.checksum``; None asks for the pieces alone.
        """


@runtime_checkable
class Replica(Scorer, ShowsWeights, Protocol):
    """A copy of the weights that can be proved and can score."""


@runtime_checkable
class RolloutEngine(Scorer, Protocol):
    """Writes replies with a copy of the policy.

    What an engine may do beyond this is in other protocols: ``ShowsWeights``, ``WaitsForServers``,
    ``Interruptible``, ``Cancellable``, ``Replicated``, ``TellsDetails``, ``LoadsAdapters`` and ``HasOwnModel``.
    """

    @property
    def policy_version(self) -> int:
        """Version of the weights now loaded; -1 before the first ``load_weights``."""

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus reply, in tokens."""

    def start(self, model_folder: str) -> None:
        """Start on the architecture that a folder's ``config.json`` describes; a second call does nothing."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once."""

    def poll(self) -> list[Completion]:
        """Return what has finished, blocking until at least one has; empty only if nothing is under way."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights and forget every cached prefix.

        Args:
            named_tensors: Read once, from the first to the last; a ``WeightStream`` gathers each when its turn comes.
            version: What ``policy_version`` is from now on.
        """

    def sleep(self) -> None:
        """Free memory until ``wake``; the version is -1 if it cannot write meanwhile."""

    def wake(self) -> None:
        """Take the memory again; nothing if it is awake."""

    def close(self) -> None:
        """End for good; a second call does nothing."""


@runtime_checkable
class WaitsForServers(Protocol):
    """An engine whose start may wait for servers."""

    def start_unless(self, model_folder: str, should_stop: Callable[[], bool]) -> None:
        """As ``start``, but asks several times a second whether the run is to stop, and then raises ``Preempted``."""


@runtime_checkable
class Interruptible(Protocol):
    """An engine that new requests can join without waiting for a reply to be finished."""

    def poll_unless(self, ready: Callable[[], bool]) -> list[Completion]:
        """As ``poll``, but asks between steps whether there is more to submit, and returns at once if so."""


@runtime_checkable
class Cancellable(Protocol):
    """An engine that can drop what is under way, so that the next rollout finds it idle."""

    def cancel(self) -> None:
        """Drop every request that is under way; called when a rollout breaks off."""


@runtime_checkable
class Replicated(Protocol):
    """An engine that keeps several copies of the weights, each of which must be proved."""

    @property
    def replicas(self) -> Sequence[Replica]:
        """The copies that take part."""


@runtime_checkable
class TellsDetails(Protocol):
    """An engine that decides some settings when it starts."""

    def details(self) -> dict[str, str]:
        """These settings by name, for the run's manifest; empty before the start."""


@runtime_checkable
class HasOwnModel(Protocol):
    """An engine with a model of its own: it takes no weights, and nothing can be trained on what it writes."""

    def play_as(self, tokenizer: Tokenizer, version: int) -> None:
        """Answer the prompts of a tokenizer, as a version of the policy; a later call changes the version.

        Raises:
            ValueError: If it cannot read such prompts.
        """


def check_trainable(engine: object) -> None:
    """Refuse an engine that would play without the policy's weights.

    Raises:
        ValueError: If it has a model of its own.
    """
    if isinstance(engine, HasOwnModel):
        raise ValueError(
            f"engine must play with the policy's weights where something is to be trained, but {type(engine).__name__} "
            "has a model of its own and gives no log-probabilities; use it with gigpo test, validate or predict"
        )


class EngineBase:
    """What the engines here share: the version of their weights, and what they refuse."""

    _version = -1

    @property
    def policy_version(self) -> int:
        """Version of the weights now loaded; -1 before the first ``load_weights``."""
        return self._version

    def poll(self: Interruptible) -> list[Completion]:
        """Return what has finished, blocking until at least one has; empty only if nothing is under way."""
        return self.poll_unless(lambda: False)

    def sleep(self) -> None:
        """Nothing to free."""

    def wake(self) -> None:
        """Nothing to take back."""

    def _begin_load(self, what: str, is_busy: bool) -> None:
        """Refuse other weights while requests are under way; from now on there are neither the old nor the new ones."""
        if is_busy:
            raise RuntimeError(f"{what} needs an idle engine, but requests are under way")
        self._version = -1

    def _check_length(self, request: GenerationRequest, longest: int) -> None:
        request.check_extras()
        if len(request.prompt_ids) + request.sampling.max_tokens > longest:
            raise ValueError(
                f"prompt plus max_tokens must be <= max_model_len {longest}, got {len(request.prompt_ids)} + "
                f"{request.sampling.max_tokens} in request {request.request_id!r}"
            )
