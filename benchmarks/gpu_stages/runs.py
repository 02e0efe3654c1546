"""Whole runs: a tiny policy sharded over one device, and two epochs of a large one with its engine asleep between."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from callbacks import RolloutMetrics
from datamodules import RolloutDataModule
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.cli import build_cli
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.rollout import RolloutEngine, SamplingParameters, TransformersEngine, VLLMEngine
from gpu_stages.lines import Recorder, installed
from gpu_stages.made_up import DEVICE, RandomPolicy, forget_peak, now, peak_gib
from gpu_stages.shapes import WORK
from gpu_stages.syncing import weight_sync
from modules import GiGPOModule

ROOT = Path(__file__).resolve().parents[2]


def sharded(part: str, shape: str, recorder: Recorder) -> None:
    """A tiny policy under fsdp2, by the command line: one epoch, a second from its checkpoint, and a validation."""
    folder = recorder.path.parent / "sharded_run"
    if part == "fit":
        shutil.rmtree(folder, ignore_errors=True)
    config = _sharded_config(shape, folder, epochs=1 if part == "fit" else 2)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.yaml"
    path.write_text(yaml.safe_dump(config))
    subcommand = "validate" if part == "validate" else "fit"
    started = now()
    cli = build_cli([subcommand, "--config", str(path), *([] if part == "fit" else ["--ckpt_path", "last"])])
    trainer = cli.trainer
    recorder.line(
        run_seconds=now() - started,
        backend=_backend(),
        strategy=type(trainer.strategy).__name__,
        epochs=trainer.current_epoch,
        iteration=cli.model.iteration,
        updates=cli.model.policy_version,
        metrics=_numbers(trainer),
    )


def end_to_end(part: str, shape: str, recorder: Recorder) -> None:
    """Two epochs of rollout, sync and update in the gridworld; without vLLM, Transformers write the replies."""
    work, with_vllm = WORK[shape], installed("vllm")
    engine: RolloutEngine = TransformersEngine(dtype="bfloat16", max_model_len=work.max_model_len)
    if with_vllm:
        engine = VLLMEngine(
            dtype="bfloat16",
            max_model_len=work.max_model_len,
            gpu_memory_utilization=work.share,
            kv_cache_gib=0.1,
            allow_sleep=DEVICE == "cuda",
        )
    module = GiGPOModule(
        RandomPolicy(shape, words=[gridworld_words, gridworld_markers]),
        GiGPO(),
        LossSettings(kl_coefficient=0.01),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
    )
    tiny = shape == "tiny"
    data = RolloutDataModule(
        GridworldEnvironment(),
        GridworldTasks(size=3, num_walls=0),
        GridworldPrompt(),
        engine,
        sampling=SamplingParameters(max_tokens=2 if tiny else 64),
        tasks_per_epoch=2 if tiny else 16,
        group_size=2 if tiny else 8,
        max_steps=2 if tiny else 10,
        micro_batch_tokens=work.budget,
        workers=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            precision="bf16-mixed",
            max_epochs=2,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[weight_sync(sleep=with_vllm), RolloutMetrics(), _EpochLines(recorder, type(engine).__name__)],
        )
        trainer.fit(module, data)
    engine.close()


class _EpochLines(Callback):
    """A line for every epoch, once all of its metrics are logged: the module's come after a callback's."""

    def __init__(self, recorder: Recorder, engine: str) -> None:
        self.recorder = recorder
        self.engine = engine
        self.started = now()
        self._figures: dict[str, Any] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer)
        forget_peak()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        free = torch.cuda.mem_get_info()[0] / (1 << 30) if DEVICE == "cuda" else None
        figures = {"epoch": trainer.current_epoch, "engine": self.engine, "since_start": now() - self.started}
        self._figures = figures | {"peak_gib": peak_gib(), "free_gib": free}

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self._figures is not None:
            self.recorder.line(**self._figures, metrics=_numbers(trainer))
            self._figures = None


def _sharded_config(shape: str, folder: Path, epochs: int) -> dict[str, Any]:
    """The gridworld's configuration, under fsdp2 and without vLLM."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "gridworld_cpu.yaml").read_text())
    config["trainer"] |= {
        "accelerator": "auto",
        "strategy": "fsdp2",
        "max_epochs": epochs,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": 1,
        "default_root_dir": str(folder),
    }
    config["data"]["init_args"]["engine"] = {"class_path": "gigpo_lightning.rollout.TransformersEngine"}
    if shape == "tiny":
        config["data"]["init_args"] |= {"tasks_per_epoch": 2, "group_size": 2, "max_steps": 3, "held_out_tasks": 2}
    return config


def _backend() -> str:
    import torch.distributed as distributed

    return str(distributed.get_backend()) if distributed.is_initialized() else "none"


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
