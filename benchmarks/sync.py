"""Seconds of a weight sync to vLLM by its parts: sending, the proof's checksums on both sides, and the probes.

    python benchmarks/sync.py [--dtype bfloat16] [--hidden 64 576] [--layers 2 12] [--repeats 7]

Each shape is a process of its own. ``--iteration`` gives the share of an iteration of so many seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.engines.weight_proof import WeightProof
from gigpo_lightning.engines.weight_stream import WeightStream
from gigpo_lightning.rollout import VLLMEngine
from gigpo_lightning.rollout.sync import ProvedSync, probe_errors
from modules import GiGPOModule, TinyPolicy

WORDS = 1000


def words() -> list[str]:
    """A vocabulary."""
    return [f"w{number}" for number in range(WORDS)]


def timed(action: Callable[[], object], repeats: int) -> float:
    """Median of an action's seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(hidden: int, layers: int, dtype: str, repeats: int) -> dict[str, float]:
    """Median seconds of each part, and the number of weights."""
    policy = TinyPolicy(
        [words], hidden_size=hidden, num_layers=layers, num_heads=hidden // 32, intermediate_size=3 * hidden
    )
    module = GiGPOModule(policy, GiGPO())
    engine = VLLMEngine(kv_cache_gib=0.125, dtype=dtype)  # type: ignore[arg-type]
    sync = ProvedSync()
    sync.sync(module, engine)
    shapes, probes = module.weight_shapes(), sync.probes(module.vocabulary_size)
    pieces = [piece for piece, _ in engine.show_weights(shapes, None)]

    def send(watched: bool) -> None:
        proof = WeightProof(shapes, pieces, 1)
        watch = proof.watch if watched else None
        engine.load_weights(WeightStream(shapes, module.named_weights, proof.dtypes, watch), 1)

    sent = timed(lambda: send(False), repeats)
    figures = {
        "weights": float(sum(each.numel() for each in module.policy.parameters())),
        "send": sent,
        "trainer's checksums": max(0.0, timed(lambda: send(True), repeats) - sent),
        "pieces": timed(lambda: engine.show_weights(shapes, None), repeats),
        "engine's checksums": timed(lambda: engine.show_weights(shapes, 1), repeats),
        "probes": timed(lambda: probe_errors(module, engine, probes), repeats),
    }
    engine.close()
    return figures


def main() -> None:
    """Measure every shape, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 576])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--iteration", type=float, help="seconds of an iteration that the proof is compared with")
    parser.add_argument("--here", action="store_true", help="measure one shape in this process")
    arguments = parser.parse_args()
    if arguments.here:
        figures = measure(arguments.hidden[0], arguments.layers[0], arguments.dtype, arguments.repeats)
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for hidden, layers in zip(arguments.hidden, arguments.layers, strict=True):
        command = [sys.executable, __file__, "--here", "--dtype", arguments.dtype, "--repeats", str(arguments.repeats)]
        command += ["--hidden", str(hidden), "--layers", str(layers)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(result.stdout.splitlines()[-1])
        sys.stdout.write(f"{figures.pop('weights') / 1e6:.2f} million weights, {arguments.dtype}\n")
        for name, seconds in figures.items():
            sys.stdout.write(f"  {name:22}{1000 * seconds:9.1f} ms\n")
        proof = sum(seconds for name, seconds in figures.items() if name not in ("send", "probes"))
        share = f", {proof / arguments.iteration:.1%} of an iteration" if arguments.iteration else ""
        sys.stdout.write(f"  {'proof in all':22}{1000 * proof:9.1f} ms{share}\n")


if __name__ == "__main__":
    main()
