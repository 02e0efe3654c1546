"""The callback that gives the engine the trainer's weights, and proves that it has them."""

import logging
import math
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gigpo_lightning.errors import Preempted, RunError
from gigpo_lightning.random_states import keep_random_states
from gigpo_lightning.ranks import gather
from gigpo_lightning.rollout.adapter import Adapter, LoadsAdapters
from gigpo_lightning.rollout.engine import Replicated, RolloutEngine, Scorer, WaitsForServers
from gigpo_lightning.rollout.interruption import never
from gigpo_lightning.token_batch import make_token_batch
from modules import AdaptedPolicy, GiGPOModule, Policy

_logger = logging.getLogger(__name__)

# float32: kernels differ in the order of their sums. bfloat16: healthy engines differ by 0.01-0.02 on average and by
# ten times that on single tokens; stale weights by 0.2 on average (peers: TRL #5312).
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.1}


class WeightSync(Callback):
    """Loads the policy into the engine before each rollout, then compares what both say of the same tokens.

    A sync that fails silently is the costliest bug of the field: rollouts go on, from old weights. So every sync ends
    with probe sequences scored by trainer and engine.

    Args:
        tolerance: Largest difference of a token's log-probability, in nats; default by the policy's type: 1e-4 for
            float32, 0.5 for bfloat16, 0.1 for float16.
        num_probes: Number of probe sequences.
        probe_tokens: Tokens of each.
        sleep: Put the engine to sleep while the policy is updated, and load the weights anew when it wakes: where both
            share a GPU, each has the other's memory in its turn. ``VLLMEngine`` then needs ``allow_sleep: true``.
        adapters: Give the engine a policy's LoRA adapters beside its weights, which are then loaded only once; the
            engine needs room for them (``max_lora_rank``). Otherwise they are added to the weights.

    Raises:
        RunError: Before a rollout, if trainer and engine differ by more than the tolerance.
    """

    def __init__(
        self,
        tolerance: float | None = None,
        num_probes: int = 4,
        probe_tokens: int = 24,
        sleep: bool = False,
        adapters: bool = False,
    ) -> None:
        if tolerance is not None and not 0 < tolerance < math.inf:
            raise ValueError(f"tolerance must be > 0, got {tolerance}")
        if num_probes < 1 or probe_tokens < 2:
            raise ValueError(f"num_probes must be >= 1 and probe_tokens >= 2, got {num_probes} and {probe_tokens}")
        self.tolerance = tolerance
        self.num_probes = num_probes
        self.probe_tokens = probe_tokens
        self.sleep = sleep
        self.adapters = adapters
        self.metrics: dict[str, float] = {}

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
            RunError: If trainer and engine differ afterwards.
        """
        policy = module.policy
        if engine.policy_version == module.policy_version:
            return
        module.check_finite_weights()
        # vLLM seeds every generator of the process when it starts: a resumed run would draw other numbers.
        with tempfile.TemporaryDirectory(prefix="gigpo-engine-") as folder, keep_random_states():
            policy.model.config.save_pretrained(folder)
            _start(engine, folder, should_stop)
        started = time.perf_counter()
        engine.wake()
        self._load(module, engine)
        probes, copies = self._probes(policy), engine.replicas if isinstance(engine, Replicated) else (engine,)
        error = max(probe_error(module, copy, probes) for copy in copies)
        self.metrics = {"sync/max_abs_logprob_error": error, "sync/seconds": time.perf_counter() - started}
        dtype = next(policy.parameters()).dtype
        tolerance = self.tolerance if self.tolerance is not None else _TOLERANCE.get(dtype, 0.5)
        if not error <= tolerance:
            raise RunError(
                f"after the weight sync to version {module.policy_version}, trainer and engine must agree on every "
                f"probe token's log-probability within {tolerance}, but differ by {error:.3g}: the engine does not "
                "have the trainer's weights, or computes with them otherwise (check both dtypes)"
            )
        _logger.debug("weights synced to version %d, error %.2g", module.policy_version, error)

    def _load(self, module: GiGPOModule, engine: RolloutEngine) -> None:
        """Load all weights, or only the adapters if the others are there."""
        policy, version = module.policy, module.policy_version
        if not self.adapters:
            engine.load_weights(module.named_weights(), version)
            return
        if not isinstance(policy, AdaptedPolicy) or not isinstance(engine, LoadsAdapters):
            raise ValueError(
                "adapters needs a policy from modules.LoraPolicy and an engine that takes adapters, got "
                f"{type(policy).__name__} and {type(engine).__name__}"
            )
        if engine.policy_version < 0:
            engine.load_weights(policy.base_weights(), version)
        config = policy.adapter_config.to_dict()
        engine.load_adapter(Adapter(config=config, tensors=policy.adapter_tensors()), version)

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


def probe_error(module: GiGPOModule, engine: Scorer, probes: list[list[int]]) -> float:
    """Largest difference between trainer and engine over the probes' tokens, in nats; NaN counts as infinite.

    Args:
        module: Has the trainer's weights.
        engine: The engine's, or those of one of its replicas.
        probes: Token ids, all of one length; the first token is the prompt.
    """
    policy, pairs = module.policy, [(probe[:1], probe[1:]) for probe in probes]
    tokens = make_token_batch(pairs, policy.tokenizer.pad_token_id, "rows").to(next(policy.parameters()).device)
    training = policy.training
    policy.eval()
    ours = module.score(tokens)[0].cpu()
    policy.train(training)
    theirs = torch.tensor(engine.score(pairs))
    return float(torch.nan_to_num((ours - theirs).abs(), nan=float("inf")).max())
