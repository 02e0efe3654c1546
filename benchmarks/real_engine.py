"""What an engine makes of a real model on a CPU, in float32 and in bfloat16.

    make llm
    python benchmarks/real_engine.py [--json]

SmolLM2-135M in vLLM, each type in a process of its own: 32 prompts of 300 random tokens, all different, and replies of
24 tokens. Seconds are a processor's, on one thread; tokens are those that were read and written. The weights come from
the trainer's float32 ones, as a run's do, and the first try, which compiles kernels, does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gigpo_lightning.rollout import GenerationRequest, SamplingParameters, VLLMEngine
from modules import PretrainedPolicy

ROOT = Path(__file__).resolve().parents[1]
TYPES = ("float32", "bfloat16")
NUMBER, PROMPT, REPLY = 32, 300, 24


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "data" / "llm" / "SmolLM2-135M-Instruct"))
    parser.add_argument("--json", action="store_true", help="print one object last")
    parser.add_argument("--dtype", choices=TYPES, help=argparse.SUPPRESS)  # measure it in this process
    arguments = parser.parse_args()
    if arguments.dtype:
        sys.stdout.write(f"{measure(arguments.model, arguments.dtype)}\n")
        return
    command = [sys.executable, __file__, "--model", arguments.model, "--dtype"]
    rates = {}
    for dtype in TYPES:
        done = subprocess.run([*command, dtype], check=True, stdout=subprocess.PIPE, text=True)
        rates[dtype] = float(done.stdout.splitlines()[-1])
        share = f"{rates[dtype] / rates['float32']:.2f} times" if len(rates) > 1 else ""
        sys.stdout.write(f"{dtype:10}{rates[dtype]:8.0f} tokens a second {share}\n")
    if arguments.json:
        sys.stdout.write(json.dumps(rates) + "\n")


def measure(model: str, dtype: str) -> float:
    """Tokens a second, the best of three."""
    torch.set_num_threads(1)
    policy = PretrainedPolicy(model).build()
    engine = VLLMEngine(dtype=dtype, max_model_len=PROMPT + REPLY, max_num_seqs=NUMBER, kv_cache_gib=1.0)
    with tempfile.TemporaryDirectory() as folder:
        policy.save_architecture(folder)
        engine.start(folder)
    engine.load_weights(policy.named_weights(), 0)
    del policy
    best = 0.0
    for attempt in range(4):
        began = time.process_time()
        tokens = play(engine, attempt)
        best = max(best, tokens / (time.process_time() - began)) if attempt else 0.0
    engine.close()
    return best


def play(engine: VLLMEngine, attempt: int) -> int:
    """Have all prompts answered; the number of tokens that were read and written."""
    noise = np.random.default_rng(attempt)
    for index in range(NUMBER):
        prompt = tuple(noise.integers(10, 40_000, PROMPT).tolist())
        sampling = SamplingParameters(temperature=1.0, max_tokens=REPLY)
        name = f"{attempt}-{index}"
        engine.submit(
            GenerationRequest(request_id=name, prompt_ids=prompt, sampling=sampling, stop_token_ids=(), seed=index)
        )
    tokens, answered = 0, 0
    while answered < NUMBER:
        for reply in engine.poll_unless(lambda: False):
            answered += 1
            tokens += PROMPT + len(reply.token_ids)
    return tokens


if __name__ == "__main__":
    main()
