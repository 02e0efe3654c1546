"""The callback that gives the engine the trainer's weights, and proves that it has them."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gigpo_lightning.engines.adapter import Adapter, LoadsAdapters
from gigpo_lightning.engines.base import (
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
from gigpo_lightning.random_states import keep_random_states
from gigpo_lightning.ranks import gather
from gigpo_lightning.token_batch import make_token_batch
from modules import AdaptedPolicy, GiGPOModule, Policy

_logger = logging.getLogger(__name__)

_STRANGE = 0.1
"""Mean difference, in nats, from which the log warns: healthy bfloat16 engines differ by 0.01 to 0.02."""


class WeightSync(Callback):
    """Loads the policy into the engine before each rollout, and proves that the engine has it, bit by bit.

    A sync that fails silently is the costliest bug of the field: rollouts go on, from old weights. So after every sync
    the engine's weights are read back where it computes with them, and must equal the trainer's, cast to the engine's
    type; no tolerance decides. Then trainer and engine score probe sequences: how far their kernels differ is logged.

    Args:
        num_probes: Number of probe sequences.
        probe_tokens: Tokens of each.
        sleep: Put the engine to sleep while the policy is updated, and load the weights anew when it wakes: where both
            share a GPU, each has the other's memory in its turn. ``VLLMEngine`` then needs ``allow_sleep: true``.
        adapters: Give the engine a policy's LoRA adapters beside its weights, which are then loaded only once; the
            engine needs room for them (``max_lora_rank``). Otherwise they are added to the weights.

    Raises:
        RunError: Before a rollout, if the engine does not have the trainer's weights.
    """

    def __init__(
        self,
        num_probes: int = 4,
        probe_tokens: int = 24,
        sleep: bool = False,
        adapters: bool = False,
    ) -> None:
        if num_probes < 1 or probe_tokens < 2:
            raise ValueError(f"num_probes must be >= 1 and probe_tokens >= 2, got {num_probes} and {probe_tokens}")
        self.num_probes = num_probes
        self.probe_tokens = probe_tokens
        self.sleep = sleep
        self.adapters = adapters
        self.metrics: dict[str, float] = {}
        self._base: WeightProof | None = None  # of the weights below an adapter, which are sent once
        self._proved = True  # until a sync begins

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the DataModule call back before each rollout.

        Lightning asks for data earlier than its hooks suggest: the first rollout comes before ``on_train_start``, an
        evaluation's before ``on_validation_start``. Only the DataModule knows when a rollout begins.
        """
        data = cast("Any", trainer).datamodule
        if not hasattr(data, "before_rollout"):
            raise ValueError(f"WeightSync needs a DataModule that plays rollouts, got {type(data).__name__}")
        module = cast("GiGPOModule", pl_module)
        data.before_rollout = lambda: self.sync(module, data.engine, getattr(data, "should_stop", never))

    def sync(self, module: GiGPOModule, engine: RolloutEngine, should_stop: Callable[[], bool] = never) -> None:
        """Bring the engine to the module's version, unless it is there.

        Args:
            module: Has the weights.
            engine: Gets them.
            should_stop: Asked while the engine waits for its servers.

        Raises:
            Preempted: If a process of the job was asked to stop meanwhile.
            FloatingPointError: If a weight is not finite; the engine is left as it is.
            RunError: If the engine does not have the weights afterwards.
            ValueError: If it cannot show what it has.
        """
        policy = module.policy
        if engine.policy_version == module.policy_version and self._proved:
            return
        module.check_finite_weights()
        if not isinstance(engine, ShowsWeights | Replicated):
            raise ValueError(
                f"engine must show its weights (gigpo_lightning.rollout.ShowsWeights), got {type(engine).__name__}"
            )
        # vLLM seeds every generator of the process when it starts: a resumed run would draw other numbers.
        with tempfile.TemporaryDirectory(prefix="gigpo-engine-") as folder, keep_random_states():
            policy.model.config.save_pretrained(folder)
            _start(engine, folder, should_stop)
        started = time.perf_counter()
        self._proved = False
        engine.wake()
        for proof in self._load(module, engine):
            _check(proof, engine, module.policy_version)
        self._proved = True
        probes = self._probes(policy)
        errors = torch.cat([probe_errors(module, copy, probes) for copy in _copies(engine)])
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
        _logger.debug("weights synced to version %d, error %.2g", module.policy_version, errors.max())

    def _load(self, module: GiGPOModule, engine: RolloutEngine) -> list[WeightProof]:
        """Load all weights, or only the adapters if the others are there; what is to be proved of them."""
        policy, version = module.policy, module.policy_version
        if not self.adapters:
            return [_send(engine, module.weight_shapes(), module.named_weights, version)]
        if not isinstance(policy, AdaptedPolicy) or not isinstance(engine, LoadsAdapters):
            raise ValueError(
                "adapters needs a policy from modules.LoraPolicy and an engine that takes adapters, got "
                f"{type(policy).__name__} and {type(engine).__name__}"
            )
        if engine.policy_version < 0 or self._base is None:
            self._base = _send(engine, policy.weight_shapes(), policy.base_weights, version)
        adapter = Adapter(config=policy.adapter_config.to_dict(), tensors=policy.adapter_tensors())
        engine.load_adapter(adapter, version)
        proof = _proof(engine, {name: tuple(each.shape) for name, each in adapter.tensors.items()}, version, adapter)
        for name, tensor in adapter.tensors.items():
            proof.watch(name, tensor.detach().to(proof.dtypes[name]))
        return [self._base, proof]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the engine to sleep before the first update: the epoch's episodes have been played."""
        if self.sleep and batch_idx == 0:
            cast("Any", trainer).datamodule.engine.sleep()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the latest sync."""
        pl_module.log_dict(self.metrics, sync_dist=True, reduce_fx="max")  # of any rank

    def _probes(self, policy: Policy) -> list[list[int]]:
        """Random tokens: every embedding is as likely to be asked for as any other."""
        size = cast("int", policy.model.config.vocab_size)
        noise = torch.Generator().manual_seed(0)
        return torch.randint(size, (self.num_probes, self.probe_tokens), generator=noise).tolist()


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
    """Compare what was sent with what every copy holds; all ranks have to ask together.

    Raises:
        RunError: If they differ, on every rank.
    """
    copies = _copies(engine)
    wrong = sorted({name for copy in copies for name in proof.differences(copy.show_weights(proof.shapes, proof.seed))})
    found = [names for names in gather(wrong[:3]) if names]
    if found:
        raise RunError(
            f"after the weight sync to version {version}, the engine's weights must equal the trainer's, cast to the "
            f"engine's type, bit by bit, but {', '.join(wrong[:3] or found[0])} differ{_and_others(wrong)}: the engine "
            "does not have the trainer's weights"
        )


def _and_others(names: list[str]) -> str:
    return f", with {len(names) - 3} others" if len(names) > 3 else ""


def probe_errors(module: GiGPOModule, engine: Scorer, probes: list[list[int]]) -> torch.Tensor:
    """Differences between trainer and engine over the probes' tokens, in nats; NaN counts as infinite.

    Args:
        module: Has the trainer's weights.
        engine: The engine's, or those of one of its replicas.
        probes: Token ids, all of one length; the first token is the prompt.

    Returns:
        Absolute differences of log-probabilities, one for each token after the first of each probe.
    """
    policy, pairs = module.policy, [(probe[:1], probe[1:]) for probe in probes]
    tokens = make_token_batch(pairs, policy.tokenizer.pad_token_id, "rows").to(next(policy.parameters()).device)
    training = policy.training
    policy.eval()
    ours = module.score(tokens)[0].cpu()
    policy.train(training)
    theirs = torch.tensor(engine.score(pairs))
    return torch.nan_to_num((ours - theirs).abs(), nan=float("inf")).flatten()
