"""What the update of a real model costs on a CPU, in float32 and bfloat16, and compiled.

    make llm
    python benchmarks/real_update.py [--before CHECKOUT] [--json]

SmolLM2-135M, all weights, on steps of ALFWorld scenes in the compact prompt, forward and backward, each way in a
process of its own. Seconds are a processor's, on one thread unless you say otherwise: more wait for each other, and
waiting counts. The peak is that of a matrix product of 2048 x 1536 x 1536 numbers, measured in the same process; a
token counts 6 operations a weight. The cosine is that of the whole gradient with float32's. ``--before`` measures
another checkout beside this one, in the same run.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gigpo_lightning.cli import share_the_machine
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import Pair, plan_micro_batches, token_trees
from modules import PretrainedPolicy

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("float32", "bfloat16", "bfloat16 compiled")
ACTIONS = ("look", "inventory", "go to cabinet 1", "open fridge 1", "take apple 1 from countertop 1", "go to shelf 2")


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    parser.add_argument("--model", default=str(ROOT / "data" / "llm"), help="folder of SmolLM2's GGUF: make llm")
    parser.add_argument("--scenes", default=str(ROOT / "data" / "llm_scenes"), help="folder of scenes, made if missing")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a micro-batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one object last")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # measure it in this process
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        sys.stdout.write(json.dumps(measure(arguments)) + "\n")
        return
    figures = report(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def report(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """A line for each way, and all figures."""
    checkouts = [("before", arguments.before.resolve())] if arguments.before else []
    checkouts.append(("now", ROOT))
    heads = f"{'tokens/s':>9}{'of peak':>9}{'GFLOP/s':>9}{'cosine':>10}{'peak MiB':>10}{'first s':>9}"
    sys.stdout.write(f"{'':26}{heads}\n")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "steps"
        kept.write_bytes(pickle.dumps(steps(arguments)))
        exact: torch.Tensor | None = None
        for name, checkout in checkouts:
            for way in WAYS[: 2 if name == "before" else 3]:
                one = run(way, checkout, kept, arguments)
                gradient = torch.load(f"{kept}.gradient", weights_only=True)
                exact = gradient if exact is None else exact
                one["cosine"] = float((gradient @ exact) / gradient.norm() / exact.norm())
                figures[f"{name}, {way}"] = one
                sys.stdout.write(
                    f"{f'{name}, {way}':26}{one['tokens_per_second']:9.0f}{one['of_peak']:9.2f}{one['gflops']:9.0f}"
                    f"{one['cosine']:10.6f}{one['peak_mib']:10.0f}{one['first_seconds']:9.0f}\n"
                )
                sys.stdout.flush()
    return figures


def steps(arguments: argparse.Namespace) -> list[Pair]:
    """Prompts and replies of episodes that wander."""
    from gigpo_lightning.environments.alfworld import AlfworldEnvironment, AlfworldTasks
    from gigpo_lightning.environments.alfworld.offline.scenes import Scenes
    from gigpo_lightning.prompts.text import CompactTextPrompt
    from gigpo_lightning.rollout import Collector, GenerationRequest, SamplingParameters, ScriptedEngine, make_pool

    tokenizer = policy_of(arguments.model).skeleton().tokenizer
    size = Scenes(train=40, valid_seen=4, valid_unseen=4, receptacles=4, objects=5, seed=0)
    tasks = AlfworldTasks(arguments.scenes, scenes=size)
    tasks.prepare()

    def reply(request: GenerationRequest) -> list[int]:
        action = ACTIONS[int(np.random.default_rng(request.seed).integers(len(ACTIONS)))]
        return [*tokenizer.encode(action), tokenizer.stop_token_ids[0]]

    collector = Collector(
        engine=ScriptedEngine(reply),
        pool=make_pool(AlfworldEnvironment(), 32, 0),
        prompt=CompactTextPrompt(history_length=2),
        tokenizer=tokenizer,
        sampling=SamplingParameters(temperature=1.0, max_tokens=14),
        max_steps=12,
        seed=0,
    )
    groups, _ = collector.play(tasks.panel("train").tasks[:4], 8, noise_key="benchmark", name="benchmark")
    pairs = [(step.prompt_ids, step.completion_ids) for group in groups for t in group.trajectories for step in t.steps]
    chosen = np.random.default_rng(0).permutation(len(pairs))[: arguments.steps]
    return [pairs[index] for index in sorted(chosen)]


def policy_of(folder: str, **more: Any) -> PretrainedPolicy:
    """SmolLM2-135M-Instruct."""
    (file,) = Path(folder).glob("*.gguf")
    return PretrainedPolicy(folder, gguf_file=file.name, **more)


def run(way: str, checkout: Path, kept: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure a way in a process of its own, with a checkout's code."""
    command = [sys.executable, __file__, "--way", way, "--kept", str(kept), "--model", arguments.model]
    command += ["--tokens", str(arguments.tokens), "--threads", str(arguments.threads)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(checkout)}
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Forward and backward of the kept steps, the best of three; memory is what is taken beyond the loaded model."""
    share_the_machine()  # as a run does
    torch.set_num_threads(arguments.threads)
    pairs: list[Pair] = pickle.loads(arguments.kept.read_bytes())
    short = arguments.way.startswith("bfloat16")
    policy = policy_of(arguments.model, **({"compile": True} if "compiled" in arguments.way else {})).build().train()
    peak = peak_gflops(torch.bfloat16 if short else torch.float32)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    update(policy, pairs, arguments.tokens, short)
    first, seconds = time.perf_counter() - started, float("inf")
    for _ in range(3):
        policy.zero_grad(set_to_none=False)
        begun = time.process_time()
        tokens = update(policy, pairs, arguments.tokens, short)
        seconds = min(seconds, time.process_time() - begun)
    most = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    gradients = [each.grad.flatten() for each in policy.parameters() if each.grad is not None]
    torch.save(torch.cat(gradients).double(), f"{arguments.kept}.gradient")  # float32 loses a sum of 10^8 squares
    gflops = 6e-9 * sum(each.numel() for each in policy.parameters()) * tokens / seconds
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "gflops": gflops,
        "of_peak": gflops / peak,
        "peak_mib": most,
        "first_seconds": first,
    }


def update(policy: Any, pairs: Sequence[Pair], budget: int, short: bool) -> int:
    """All gradients of a loss like the trainer's; the number of tokens that were computed."""
    advantage = torch.randn(len(pairs), generator=torch.Generator().manual_seed(0))
    tokens = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=short):  # around all micro-batches, as Lightning has it
        for rows in plan_micro_batches(token_trees(pairs), budget, policy.row_rules):
            part = [index for row in rows for tree in row for index in tree.pairs]
            batch = make_token_batch(pairs, 0, rows)
            logprobs, _ = policy(batch)
            (-(logprobs * batch.action_mask).sum(1) @ advantage[part] / len(pairs)).backward()
            tokens += batch.input_ids.numel()
    return tokens


def peak_gflops(dtype: torch.dtype) -> float:
    """Of a large matrix product, a second of a processor."""
    left, right = torch.randn(2048, 1536).to(dtype), torch.randn(1536, 1536).to(dtype)
    best = float("inf")
    for _ in range(20):
        begun = time.process_time()
        torch.nn.functional.linear(left, right)
        best = min(best, time.process_time() - begun)
    return 2e-9 * 2048 * 1536 * 1536 / best


if __name__ == "__main__":
    main()
