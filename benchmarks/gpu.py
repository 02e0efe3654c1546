"""One GPU, under ten minutes: what an update of a Qwen2.5-1.5B-shaped policy costs in bfloat16, and what is around it.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --shape tiny --strategies auto fsdp2    # the same on a CPU, to see that it runs

No checkpoint is needed: weights are random, steps are made up (lengths of prompts and replies as on ALFWorld with the
paper's prompt, half of the prompts repeated). Each strategy runs in a process of its own; the table comes last.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader
from transformers import Qwen2Config, Qwen2ForCausalLM

from callbacks.weight_sync import probe_error
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.batch import Minibatch, make_minibatches
from gigpo_lightning.errors import RunError
from gigpo_lightning.trajectory import Step, StepTable, StopReason, Trajectory, TrajectoryGroup
from modules import GiGPOModule, Policy
from modules.policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": {  # config.json of Qwen/Qwen2.5-1.5B-Instruct
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}
WORK = {  # groups, episodes, steps of an episode, tokens of a prompt and of a reply, tokens of a micro-batch
    "qwen2.5-1.5b": (4, 8, 8, 700, 120, 32_768),
    "tiny": (2, 2, 3, 40, 8, 512),
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # dense bfloat16, vendor's data
UPDATES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--strategies", nargs="+", default=["auto", "fsdp2", "fsdp"])
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--measure", help="measure this strategy, here")
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments)) + "\n")
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [f"{arguments.shape}, bf16-mixed, attention {arguments.attention}, on {device}, torch {torch.__version__}"]
    lines.append(
        f"{'strategy':10}{'tokens/s':>10}{'MFU':>7}{'update s':>10}{'peak GiB':>10}{'credit ms':>11}{'sync s':>9}"
    )
    for strategy in arguments.strategies:
        command = [sys.executable, __file__, "--measure", strategy]
        command += ["--shape", arguments.shape, "--attention", arguments.attention]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            lines.append(f"{strategy:10}failed: {result.stderr.strip().splitlines()[-1]}")
            continue
        one = json.loads(result.stdout.splitlines()[-1])
        mfu = "-" if one["mfu"] is None else f"{one['mfu']:.1%}"
        sync = one["sync"] if isinstance(one["sync"], str) else f"{one['sync']:.2f}"
        figures = f"{one['tokens_per_second']:10.0f}{mfu:>7}{one['seconds']:10.2f}{one['peak_gib']:10.2f}"
        lines.append(f"{strategy:10}{figures}{one['credit_ms']:11.2f}{sync:>9}")
    lines.append(
        "tokens/s and MFU: tokens of all steps, each prompt counted for every reply to it; no recomputation counted"
    )
    if importlib.util.find_spec("vllm") is None:
        lines.append("vLLM is not installed: no weights were given to an engine")
    sys.stdout.write("\n".join(lines) + "\n")


class RandomPolicy:
    """A policy of a shape, with random weights."""

    def __init__(self, shape: str, attention: str) -> None:
        self.shape = shape
        self.attention = attention

    def build(self) -> Policy:
        config = Qwen2Config(**SHAPES[self.shape], tie_word_embeddings=True, max_position_embeddings=4096)
        config._attn_implementation = self.attention
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = Qwen2ForCausalLM(config)
        model.gradient_checkpointing_enable()
        return Policy(model, TransformersTokenizer(word_tokenizer(["word"])))


class MadeUpSteps(LightningDataModule):
    """One minibatch, over and over: what counts here is its shape."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.credit_seconds = 0.0
        self.tokens = self.computed = 0

    def train_dataloader(self) -> DataLoader[Minibatch]:
        groups, (*_, budget) = self.groups(), WORK[self.shape]
        table = StepTable.from_groups(groups)
        GiGPO().estimate(table)
        started = time.perf_counter()
        credit = GiGPO().estimate(table)
        self.credit_seconds = time.perf_counter() - started
        module = self.trainer.lightning_module  # type: ignore[union-attr]
        (minibatch,) = make_minibatches(
            groups,
            credit,
            pad_token_id=0,
            temperature=1.0,
            minibatch_size=None,
            micro_batch_tokens=budget,
            seed=0,
            layout=module.policy.layout,
        )
        steps = [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
        self.tokens = sum(len(step.prompt_ids) + len(step.completion_ids) for step in steps)
        self.replies = sum(len(step.completion_ids) for step in steps)
        self.computed = sum(part.tokens.input_ids.numel() for part in minibatch.micro_batches)
        return DataLoader([minibatch] * UPDATES, batch_size=None)

    def groups(self) -> list[TrajectoryGroup]:
        num_groups, episodes, length, prompt, reply, _ = WORK[self.shape]
        noise = np.random.default_rng(0)
        vocabulary = SHAPES[self.shape]["vocab_size"]

        def tokens(mean: int) -> tuple[int, ...]:
            return tuple(noise.integers(3, vocabulary, int(noise.uniform(0.6, 1.4) * mean)).tolist())

        def step(prompts: list[tuple[int, ...]]) -> Step:
            place = int(noise.integers(len(prompts)))
            written = tokens(reply)
            return Step(
                observation=str(place),
                anchor_key=place,
                prompt_ids=prompts[place],
                completion_ids=written,
                logprobs=(-1.0,) * len(written),
                response="",
                action="",
                valid_action=True,
                reward=float(noise.random()),
                policy_version=0,
                prompt_truncated=False,
            )

        groups = []
        for number in range(num_groups):
            prompts = [tokens(prompt) for _ in range(episodes * length * 3 // 4)]
            trajectories = tuple(
                Trajectory(
                    task_id=str(number),
                    kind="",
                    episode_index=index,
                    steps=tuple(step(prompts) for _ in range(length)),
                    success=False,
                    stop_reason=StopReason.TRUNCATED,
                    final_observation="",
                )
                for index in range(episodes)
            )
            groups.append(TrajectoryGroup(task_id=str(number), trajectories=trajectories))
        return groups


class Clock(Callback):
    """Times every update after the first, and the way of the weights to vLLM."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.sync: float | str = "-"
        self.peak_gib = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.started = now()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds.append(now() - self.started)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if torch.cuda.is_available():
            self.peak_gib = torch.cuda.max_memory_allocated() / (1 << 30)
        if importlib.util.find_spec("vllm") is None:
            self.sync = "no vLLM"
            return
        from gigpo_lightning.rollout import VLLMEngine

        engine = VLLMEngine(
            dtype="bfloat16" if torch.cuda.is_available() else "float32", max_model_len=1024, gpu_memory_utilization=0.2
        )
        with tempfile.TemporaryDirectory() as folder:
            pl_module.policy.model.config.save_pretrained(folder)
            engine.start(folder)
        for version in range(2):  # the first is slow
            started = now()
            engine.load_weights(pl_module.named_weights(), version)
            self.sync = now() - started
        error = probe_error(pl_module, engine, [list(range(3, 27))] * 2)
        if not error < 0.5:
            raise RunError(f"trainer and engine must agree, but differ by {error}")
        engine.close()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    settings = LossSettings(entropy_coefficient=0.001)
    module = GiGPOModule(RandomPolicy(arguments.shape, arguments.attention), GiGPO(), settings)
    data, clock = MadeUpSteps(arguments.shape), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            strategy=arguments.measure,
            precision="bf16-mixed",
            max_epochs=1,
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, data)
    seconds = float(np.median(clock.seconds[1:]))
    peak = next((flops for name, flops in PEAK.items() if torch.cuda.is_available() and name in device_name()), None)
    flops = 3 * forward_flops(arguments.shape, data)
    return {
        "seconds": seconds,
        "tokens_per_second": data.tokens / seconds,
        "mfu": None if peak is None else flops / seconds / peak,
        "peak_gib": clock.peak_gib,
        "credit_ms": 1000 * data.credit_seconds,
        "sync": clock.sync,
    }


def device_name() -> str:
    return str(torch.cuda.get_device_name())


def forward_flops(shape: str, data: MadeUpSteps) -> float:
    """Matrix products of a forward pass over the tokens that are computed, shared prompts once; attention left out."""
    size = SHAPES[shape]
    width, kv = size["hidden_size"], size["hidden_size"] // size["num_attention_heads"] * size["num_key_value_heads"]
    block = 2 * width * width + 2 * width * kv + 3 * width * size["intermediate_size"]
    return 2.0 * (size["num_hidden_layers"] * block * data.computed + size["vocab_size"] * width * data.replies)


if __name__ == "__main__":
    main()
