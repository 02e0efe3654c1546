"""The update: a minibatch's losses, their gradients, and one step of the optimizer."""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gigpo_lightning.algorithm.losses import LossSettings, LossTerms, policy_loss
from gigpo_lightning.batch import Minibatch, StepBatch
from gigpo_lightning.countdown import Countdown
from gigpo_lightning.token_batch import TokenBatch

_LOGGED = ("loss", "policy", "kl", "entropy", "clip_fraction", "approximate_kl")
_LOGGED_WITH_CORRECTION = ("engine_kl", "correction_weight", "corrected_fraction")


def check_max_grad_norm(norm: float) -> None:
    """Refuse a largest norm that would leave nothing of a gradient; a module asks before its learner can be made.

    Raises:
        ValueError: If it is not positive.
    """
    if not norm > 0:
        raise ValueError(f"max_grad_norm must be > 0, got {norm}")


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is not finite; the minibatch has changed no weight."""

    def __init__(self, what: str, value: float, batch: Minibatch) -> None:
        rows = sorted(int(row) for micro_batch in batch.micro_batches for row in micro_batch.row)
        self.what, self.value, self.rows = what, value, f"rows {rows[0]} to {rows[-1]} of the rollout's table"
        super().__init__(f"the {what} must be finite, got {value} in {self.rows}")


@runtime_checkable
class TrainedPolicy(Protocol):
    """A policy that can be called for log-probabilities with gradients.

    Attributes:
        policy_version: Number of updates that have made the weights; each update adds one.
    """

    policy_version: int

    def __call__(self, tokens: TokenBatch, temperature: float, /) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the replies, ``(S, R)``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""


@runtime_checkable
class Execution(Protocol):
    """How several processes, or a strategy, carry out what an update needs."""

    @property
    def device(self) -> torch.device:
        """Where micro-batches go."""

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Around the backward pass of a micro-batch; ``last`` of its minibatch, it shares the gradients out."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients: in the end, of the sum over all processes."""

    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients down to a norm; their norm before, over all processes."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""


class OneProcess:
    """An update in one process, without a strategy.

    Args:
        policy: Is trained.
        device: Where its weights are.
    """

    def __init__(self, policy: TrainedPolicy, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._policy = policy

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Nothing to share."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, max_norm: float) -> Tensor:
        """Scale them down."""
        return nn.utils.clip_grad_norm_(self._policy.parameters(), max_norm)

    def sum(self, values: Tensor) -> Tensor:
        """This process's own."""
        return values


class Learner:
    """Takes one optimizer step a minibatch; ``loop.py`` and ``GiGPOModule.training_step`` both use it.

    Args:
        policy: Is trained.
        loss: The loss and its coefficients.
        optimizer: Of the policy's parameters that are trained.
        scheduler: Changes the learning rate; default: constant.
        scheduler_interval: Whether the scheduler counts epochs or updates.
        max_grad_norm: Gradients are scaled down to this norm, in units of loss per parameter.
        ref_logprobs: Log-probabilities of the frozen reference; needed by a KL coefficient.
        execution: How it is carried out; default: in one process.

    Raises:
        ValueError: If ``max_grad_norm`` is not positive, or a KL coefficient has no reference.
    """

    def __init__(
        self,
        policy: TrainedPolicy,
        loss: LossSettings,
        optimizer: Any,
        scheduler: Any = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        max_grad_norm: float = 1.0,
        ref_logprobs: Callable[[TokenBatch, float], Tensor] | None = None,
        execution: Execution | None = None,
    ) -> None:
        check_max_grad_norm(max_grad_norm)
        if loss.kl_coefficient and ref_logprobs is None:
            raise ValueError(f"kl_coefficient must be 0 without a reference, got {loss.kl_coefficient}")
        self.policy = policy
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.max_grad_norm = max_grad_norm
        self.ref_logprobs = ref_logprobs if loss.kl_coefficient else None
        self.execution = execution or OneProcess(policy)
        self._countdown = Countdown("update: minibatch")
        self.logged = (*_LOGGED, *(_LOGGED_WITH_CORRECTION if loss.importance_correction is not None else ()))

    def update(self, batch: Minibatch, progress: float = math.nan) -> dict[str, float]:
        """Accumulate the micro-batches' gradients, then take one optimizer step.

        Args:
            batch: The minibatch; this process's part of it.
            progress: Share of the training that is done, from 0 to 1; not a number where there is no end.

        Returns:
            The minibatch's terms of ``LossTerms``, ``loss`` among them, and ``gradient_norm``, over all processes.

        Raises:
            NotFiniteError: If the loss or the gradient is not finite.
        """
        self.optimizer.zero_grad()
        self._countdown.reach(float(batch.index), batch.num_minibatches)
        totals = torch.zeros(len(self.logged), device=self.execution.device)
        for index, micro_batch in enumerate(batch.micro_batches):
            with self.execution.accumulate(last=index == len(batch.micro_batches) - 1):
                terms = self._terms(micro_batch, batch, progress)
                _check_finite("loss", terms.loss, batch)
                self.execution.backward(terms.loss)
            totals += torch.stack([getattr(terms, name).detach().float() for name in self.logged])
            done = batch.index + (index + 1) / len(batch.micro_batches)
            self._countdown.reach(done, batch.num_minibatches)
        norm = self.execution.clip(self.max_grad_norm)
        _check_finite("gradient norm", norm, batch)
        self.optimizer.step()
        self.policy.policy_version += 1
        if self.scheduler is not None and self.scheduler_interval == "step":
            self.scheduler.step()
        # Numbers, and no tensors: a tensor is reduced where it lies, and NCCL takes none that lies on a CPU.
        sums = self.execution.sum(totals).tolist()
        return {**dict(zip(self.logged, sums, strict=True)), "gradient_norm": norm.item()}

    def end_epoch(self, metric: float | None = None) -> None:
        """Let the scheduler know that an epoch is done.

        Args:
            metric: What ``ReduceLROnPlateau`` watches; other schedulers take none.
        """
        if self.scheduler is not None and self.scheduler_interval == "epoch":
            self.scheduler.step(*(() if metric is None else (metric,)))

    def _terms(self, micro_batch: StepBatch, batch: Minibatch, progress: float) -> LossTerms:
        """Loss of a micro-batch, divided by the whole minibatch's counts, so that micro-batches add up."""
        micro_batch = micro_batch.to(self.execution.device)
        logprobs, entropy = self.policy(micro_batch.tokens, batch.temperature)
        reference = None if self.ref_logprobs is None else self.ref_logprobs(micro_batch.tokens, batch.temperature)
        return policy_loss(
            self.loss,
            logprobs=logprobs,
            old_logprobs=micro_batch.old_logprobs,
            entropy=entropy,
            ref_logprobs=reference,
            advantage=micro_batch.advantage,
            action_mask=micro_batch.tokens.action_mask,
            row_weight=micro_batch.row_weight,
            counts=batch.counts,
            engine_logprobs=micro_batch.engine_logprobs,
            trajectory_share=micro_batch.trajectory_share,
            clip_scale=micro_batch.clip_scale,
            progress=progress,
        )


def _check_finite(what: str, value: Tensor, batch: Minibatch) -> None:
    if not math.isfinite(value.item()):
        raise NotFiniteError(what, value.item(), batch)
