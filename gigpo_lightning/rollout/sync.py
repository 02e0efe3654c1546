"""Giving an engine the policy's weights, and the proof that it has them.

start ─▶ wake ─▶ send (weights, or adapters) ─▶ compare checksums of every piece ─▶ score probes, for the log
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch

from gigpo_lightning.engines.adapter import Adapter, LoadsAdapters
from gigpo_lightning.engines.base import (
    HasOwnModel,
    Replica,
    Replicated,
    RolloutEngine,
    Scorer,
    ShowsWeights,
    WaitsForServers,
)
from gigpo_lightning.engines.weight_proof import WeightProof
from gigpo_lightning.engines.weight_stream import WeightStream
from gigpo_lightning.errors import Preempted, RunError
from gigpo_lightning.interruption import never
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.random_states import keep_random_states
from gigpo_lightning.ranks import gather
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import RowRules, in_rows, token_trees

_logger = logging.getLogger(__name__)

_STRANGE = 0.5
"""Mean difference, in nats, from which the log warns.

Healthy bfloat16 engines differ by .01 to .02 on a CPU. On an H100 they differ by .06 with 1.5 billion random weights,
and by .08 to .18 with SmolLM2-135M, to which the probes are very unlikely tokens (benchmarks/README.md).
"""


@runtime_checkable
class EngineSync(Protocol):
    """Brings an engine up to date; ``callbacks.WeightSync`` is one."""

    def sync(self, policy: PolicyView, engine: RolloutEngine, should_stop: Callable[[], bool] = never) -> None:
        """Bring the engine to the policy's version, unless it is there."""


class ProvedSync:
    """Loads the policy into the engine, and proves that the engine has it, bit by bit.

    After every sync the engine's weights are read back where it computes with them, and must equal the policy's, cast
    to the engine's type; no tolerance decides. Then both score probe sequences: how far their kernels differ is logged.

    Args:
        num_probes: Number of probe sequences.
        probe_tokens: Tokens of each.
        adapters: Give the engine a policy's LoRA adapters beside its weights, which are then loaded only once.

    Attributes:
        metrics: Of the latest sync, by the names that are logged.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, num_probes: int = 4, probe_tokens: int = 24, adapters: bool = False) -> None:
        if num_probes < 1 or probe_tokens < 2:
            raise ValueError(f"num_probes must be >= 1 and probe_tokens >= 2, got {num_probes} and {probe_tokens}")
        self.num_probes = num_probes
        self.probe_tokens = probe_tokens
        self.adapters = adapters
        self.metrics: dict[str, float] = {}
        self._base: WeightProof | None = None  # of the weights below an adapter, which are sent once
        self._proved = True  # until a sync begins

    def sync(self, policy: PolicyView, engine: RolloutEngine, should_stop: Callable[[], bool] = never) -> None:
        """Bring the engine to the policy's version, unless it is there; a wait for its servers asks ``should_stop``.

        An engine with a model of its own gets no weights, and there is nothing to prove.

        Raises:
            Preempted: If a process of the job was asked to stop meanwhile.
            FloatingPointError: If a weight is not finite; the engine is left as it is.
            RunError: If the engine does not have the weights afterwards.
            ValueError: If it cannot show what it has.
        """
        if engine.policy_version == policy.policy_version and self._proved:
            return
        if isinstance(engine, HasOwnModel):
            engine.play_as(policy.tokenizer, policy.policy_version)
            return
        policy.check_finite_weights()
        if not isinstance(engine, ShowsWeights | Replicated):
            raise ValueError(
                f"engine must show its weights (gigpo_lightning.rollout.ShowsWeights), got {type(engine).__name__}"
            )
        # vLLM seeds every generator of the process when it starts: a resumed run would draw other numbers.
        with tempfile.TemporaryDirectory(prefix="gigpo-engine-") as folder, keep_random_states():
            policy.save_architecture(folder)
            _start(engine, folder, should_stop)
        started = time.perf_counter()
        self._proved = False
        engine.wake()
        for proof in self._load(policy, engine):
            _check(proof, engine, policy.policy_version)
        self._proved = True
        probes = self.probes(policy.vocabulary_size)
        errors = torch.cat([probe_errors(policy, copy, probes) for copy in _copies(engine)])
        self.metrics = {
            "sync/mean_abs_logprob_error": float(errors.mean()),
            "sync/p99_abs_logprob_error": float(errors.quantile(0.99)),
            "sync/max_abs_logprob_error": float(errors.max()),
            "sync/seconds": time.perf_counter() - started,
        }
        if not self.metrics["sync/mean_abs_logprob_error"] < _STRANGE:
            _logger.warning(
                "the engine has the trainer's weights, but computes with them otherwise: log-probabilities differ by "
                "%.2g nats on average; look at both types, and at the model's configuration on a server",
                self.metrics["sync/mean_abs_logprob_error"],
            )
        _logger.debug("weights synced to version %d, error %.2g", policy.policy_version, errors.max())

    def _load(self, policy: PolicyView, engine: RolloutEngine) -> list[WeightProof]:
        """Load all weights, or only the adapters if the others are there; what is to be proved of them."""
        version = policy.policy_version
        if not self.adapters:
            return [_send(engine, policy.weight_shapes(), policy.named_weights, version)]
        weights = policy.adapted
        if weights is None or not isinstance(engine, LoadsAdapters):
            raise ValueError(
                "adapters needs a policy from modules.LoraPolicy and an engine that takes adapters, got "
                f"{'one without adapters' if weights is None else 'one'} and {type(engine).__name__}"
            )
        if engine.policy_version < 0 or self._base is None:
            self._base = _send(engine, weights.weight_shapes(), weights.base_weights, version)
        adapter = Adapter(config=weights.adapter_config.to_dict(), tensors=weights.adapter_tensors())
        engine.load_adapter(adapter, version)
        proof = _proof(engine, {name: tuple(each.shape) for name, each in adapter.tensors.items()}, version, adapter)
        for name, tensor in adapter.tensors.items():
            proof.watch(name, tensor.detach().to(proof.dtypes[name]))
        return [self._base, proof]

    def probes(self, vocabulary_size: int) -> list[list[int]]:
        """Random tokens: every embedding is as likely to be asked for as any other."""
        noise = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary_size, (self.num_probes, self.probe_tokens), generator=noise).tolist()


def _start(engine: RolloutEngine, folder: str, should_stop: Callable[[], bool]) -> None:
    """Start an engine, unless a process of the job is asked to stop while one waits for its servers."""
    if not isinstance(engine, WaitsForServers):
        engine.start(folder)
        return
    stopped = False
    try:
        engine.start_unless(folder, should_stop)
    except Preempted as stop:
        _logger.debug("%s", stop)
        stopped = True
    if any(gather(stopped)):
        raise Preempted("the engine was not started")


def _copies(engine: RolloutEngine) -> Sequence[Replica]:
    """The copies of the weights that an engine writes with."""
    return engine.replicas if isinstance(engine, Replicated) else (cast("Replica", engine),)


def _proof(
    engine: RolloutEngine, shapes: dict[str, tuple[int, ...]], version: int, adapter: Adapter | None = None
) -> WeightProof:
    """A proof of every piece that a copy says it holds, beginning with other columns for every version."""
    pieces = [piece for copy in _copies(engine) for piece, _ in copy.show_weights(shapes, None)]
    return WeightProof(shapes, pieces, seed=version, scale=1.0 if adapter is None else adapter.scale)


def _send(
    engine: RolloutEngine,
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[], Iterable[tuple[str, torch.Tensor]]],
    version: int,
) -> WeightProof:
    """Load weights one after the other, in the engine's types."""
    proof = _proof(engine, shapes, version)
    engine.load_weights(WeightStream(shapes, read, proof.dtypes, proof.watch), version)
    return proof


def _check(proof: WeightProof, engine: RolloutEngine, version: int) -> None:
    """Compare what was sent with what every copy holds; all ranks have to ask together."""
    copies = _copies(engine)
    wrong = sorted({name for copy in copies for name in proof.differences(copy.show_weights(proof.shapes, proof.seed))})
    found = [names for names in gather(wrong[:3]) if names]
    if found:
        others = f", with {len(wrong) - 3} others" if len(wrong) > 3 else ""
        raise RunError(
            f"after the weight sync to version {version}, the engine's weights must equal the trainer's, cast to the "
            f"engine's type, bit by bit, but {', '.join(wrong[:3] or found[0])} differ{others}: the engine "
            "does not have the trainer's weights"
        )


def probe_errors(policy: PolicyView, engine: Scorer, probes: list[list[int]]) -> torch.Tensor:
    """Differences between a policy and an engine, or a replica, over the probes' tokens, in nats; NaN is infinite.

    Args:
        policy: Has the trainer's weights.
        engine: Has what it was sent of them.
        probes: Token ids, all of one length; the first token is the prompt.

    Returns:
        Absolute differences of log-probabilities, one for each token after the first of each probe.
    """
    pairs = [(probe[:1], probe[1:]) for probe in probes]
    rows = in_rows(token_trees(pairs), RowRules(shared=False))
    ours = policy.score(make_token_batch(pairs, policy.tokenizer.pad_token_id, rows))[0].cpu()
    theirs = torch.tensor(engine.score(pairs))
    return torch.nan_to_num((ours - theirs).abs(), nan=float("inf")).flatten()
