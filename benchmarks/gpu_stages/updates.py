"""What an update costs: its memory by the size of a micro-batch, its time, and where that goes."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.batch import Minibatch, make_minibatches
from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.token_trees import RowRules
from gigpo_lightning.trajectory import StepTable
from gpu_stages.lines import Recorder, machine
from gpu_stages.made_up import DEVICE, RandomPolicy, forget_peak, made_up_group, now, peak_gib
from gpu_stages.prediction import predicted
from gpu_stages.shapes import WORK, forward_operations, share_of_peak
from modules import GiGPOModule

_TOP = 15


def memory(part: str, shape: str, recorder: Recorder) -> None:
    """The peak of an update at each size of a micro-batch, with the reference, against the prediction.

    The largest comes last: where it does not fit, the line says so, and the stage ends well.
    """
    budgets = WORK[shape].budgets
    fit(shape, "auto", recorder, Meter(recorder, shape, "auto", budgets, repeats=1))


def update(part: str, shape: str, recorder: Recorder) -> None:
    """Tokens a second and MFU of an update under one strategy, and the operations that take the longest."""
    budgets = (WORK[shape].budget,)
    fit(shape, part, recorder, Meter(recorder, shape, part, budgets, WORK[shape].repeats, profiles=True))


class Meter(Callback):
    """Times every update after the first of a budget, and looks into the last.

    Args:
        recorder: Gets a line for each.
        shape: Of the model.
        strategy: Lightning's name.
        budgets: Tokens of a micro-batch, of one run of updates after the other.
        repeats: Timed updates of each.
        profiles: Have one more update looked into.
    """

    def __init__(
        self,
        recorder: Recorder,
        shape: str,
        strategy: str,
        budgets: Sequence[int],
        repeats: int,
        profiles: bool = False,
    ) -> None:
        self.recorder = recorder
        self.shape = shape
        self.strategy = strategy
        kinds = ["first", *["timed"] * repeats, *["profiled"] * profiles]
        self.updates = [(budget, kind) for budget in budgets for kind in kinds]
        self._profile: Any = None
        self._started = 0.0

    @property
    def budgets(self) -> list[int]:
        """The budget of every update."""
        return [budget for budget, _ in self.updates]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Minibatch, batch_idx: int) -> None:
        if self.updates[batch_idx][1] == "first":
            forget_peak()
        if self.updates[batch_idx][1] == "profiled":
            self._profile = profile(activities=_activities())
            self._profile.__enter__()
        self._started = now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Minibatch, batch_idx: int
    ) -> None:
        seconds = now() - self._started
        budget, kind = self.updates[batch_idx]
        if kind == "profiled":
            self._profile.__exit__(None, None, None)
            self.recorder.line(strategy=self.strategy, longest=longest(self._profile, _TOP))
        elif kind == "timed":
            config, parts = pl_module.policy.model.config, [part.tokens for part in batch.micro_batches]
            largest = max(tokens.input_ids.numel() for tokens in parts)
            attention = pl_module.policy.attention()
            dense = [tokens.input_ids.shape[1] for tokens in parts if attention.name == "sdpa" and not tokens.is_plain]
            figures = {"budget": budget, "strategy": self.strategy, "attention": attention.name}
            self.recorder.line(
                **figures,
                **_rates(self.shape, batch, seconds),
                peak_gib=peak_gib(),
                reserved_gib=torch.cuda.max_memory_reserved() / (1 << 30) if DEVICE == "cuda" else None,
                largest_micro_batch=largest,
                **predicted(config, self.strategy, largest, max(dense, default=0)),
            )


class _Updates(LightningDataModule):
    """A minibatch of two full micro-batches for each update."""

    def __init__(self, shape: str, budgets: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.budgets = budgets

    def train_dataloader(self) -> DataLoader[Minibatch]:
        module = self.trainer.lightning_module  # type: ignore[union-attr]
        made = {budget: self._minibatch(budget, module.policy.row_rules) for budget in dict.fromkeys(self.budgets)}
        return DataLoader([made[budget] for budget in self.budgets], batch_size=None, shuffle=False)  # type: ignore[arg-type]

    def _minibatch(self, budget: int, rules: RowRules) -> Minibatch:
        work = WORK[self.shape]
        steps = max(4, 3 * budget // (work.prompt + 2 * work.reply))
        groups = [made_up_group(self.shape, steps, work.prompt, work.reply)]
        (minibatch,) = make_minibatches(
            groups,
            GiGPO().estimate(StepTable.from_groups(groups)),
            pad_token_id=0,
            temperature=1.0,
            minibatch_size=None,
            micro_batch_tokens=budget,
            seed=0,
            rules=rules,
        )
        return minibatch


def fit(shape: str, strategy: str, recorder: Recorder, meter: Meter) -> None:
    """Train on made-up steps; if the device's memory is too small, the line says at which size.

    Args:
        shape: Of the model.
        strategy: Lightning's name.
        recorder: Gets that line.
        meter: Says which updates there are, and measures them.
    """
    warnings.filterwarnings("ignore")
    module = GiGPOModule(RandomPolicy(shape), GiGPO(), LossSettings(kl_coefficient=0.01), _adamw)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            strategy=strategy,
            precision="bf16-mixed",
            max_epochs=1,
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[meter],
        )
        try:
            trainer.fit(module, _Updates(shape, meter.budgets))
        except torch.OutOfMemoryError as error:
            budget = meter.budgets[min(trainer.global_step, len(meter.budgets) - 1)]
            config = RandomPolicy(shape).config()  # the module may have got no further than its weights
            recorder.line(
                budget=budget,
                strategy=strategy,
                out_of_memory=str(error).splitlines()[0],
                **predicted(config, strategy, budget),
            )


def _adamw(parameters: Iterator[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-6)  # as the configurations' for GPUs


def _rates(shape: str, batch: Minibatch, seconds: float) -> dict[str, Any]:
    """Tokens of all steps, each prompt counted for every reply to it; no recomputation counted."""
    parts = [part.tokens for part in batch.micro_batches]
    computed = sum(tokens.input_ids.numel() for tokens in parts)
    replies = sum(int(tokens.action_mask.sum()) for tokens in parts)
    plain = sum(plain_tokens(tokens) for tokens in parts)
    operations = (3 + 1) * forward_operations(shape, computed, replies)  # and the reference's pass
    return {
        "micro_batches": len(parts),
        "tokens": plain,
        "computed_tokens": computed,
        "update_seconds": seconds,
        "tokens_per_second": plain / seconds,
        "mfu": share_of_peak(operations / seconds, str(machine()["device"])),
    }


def plain_tokens(tokens: TokenBatch) -> int:
    """Tokens of all sequences, each prompt counted for every reply to it."""
    source = tokens.source.gather(1, tokens.action_mask.sum(1, keepdim=True) - 1)  # predicts a reply's last token
    return int((tokens.position_ids.flatten()[source.flatten()] + 2).sum())


def longest(found: profile, most: int) -> list[dict[str, Any]]:
    """Operations by the time that they take on the device themselves.

    Args:
        found: What was looked into.
        most: How many to name.
    """
    name = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: getattr(event, name), reverse=True)
    return [{"name": event.key, "ms": getattr(event, name) / 1000, "calls": event.count} for event in events[:most]]


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
