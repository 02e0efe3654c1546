"""A real language model learns to act, on two cores: what `make train-llm` runs.

    python benchmarks/llm/train.py [--seed 0 1 2] [--method gigpo grpo]

SmolLM2-135M is fetched, imitates a searching expert in small ALFWorld scenes, and then learns by GiGPO. Held-out games
in floor plans that it has not seen are played before and after, each once; the last line is the gain with its 95 %
interval. Every part goes on where it was stopped. Several methods start from the same imitation, seed by seed, and are
compared on the games after it.

``--runs`` is the folder of all runs. A run's folder there, ``<method>_<seed>``, has ``parts.jsonl``: a line for each
process that took part in it, with its wall-clock seconds and the largest memory it had, in GiB.
"""

import argparse
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from llm_results import STANDARD, Run, compared, read_run

from gigpo_lightning.disk import checkpoints_in, read_lines

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "alfworld"
METHODS = {"gigpo": (), "grpo": (Path(__file__).with_name("grpo.yaml"),)}
_EVERY = 2.0  # seconds between looks at the memory of a part
_SILENT = 15.0  # seconds without a line

logger = logging.getLogger("train-llm")


def main(words: Sequence[str] | None = None) -> None:
    """Do what is not done yet."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--method", choices=METHODS, nargs="+", default=[STANDARD], help=f"default: {STANDARD}")
    parser.add_argument("--runs", type=Path, default=Path("runs/llm"), help="default: %(default)s")
    arguments, more = parser.parse_known_args(words)
    done = []
    for seed in arguments.seed:
        imitation = arguments.runs / f"imitation_{seed}"
        imitate(imitation, seed)
        for method in arguments.method:
            training = arguments.runs / f"{method}_{seed}"
            start = [
                "--model.init_args.policy.init_args.model",
                str(imitation / "policy"),
                "--seed_everything",
                str(seed),
            ]
            learn(training, method, [CONFIGS / "llm_cpu.yaml", *METHODS[method]], [*start, *more])
            done.append(read_run(training, imitation))
            logger.info("%s", said(done[-1]))
    for run in done if len(done) > 1 else ():
        logger.info("%s", said(run))
    for line in compared(done):
        logger.info("%s", line)


def said(run: Run) -> str:
    """A run in a line."""
    return (
        f"{run.method}, seed {run.seed}: {run.success_start:.3f} before, {run.success_end:.3f} after, on {run.games} "
        f"held-out games; gain {run.gain:+.3f} [{run.low:+.3f}, {run.high:+.3f}]; {run.minutes:.0f} minutes in all, "
        f"at most {run.peak_gib:.1f} GiB"
    )


def imitate(folder: Path, seed: int) -> None:
    """Fetch the model, and make the start that all methods have; it is in ``policy``."""
    part(folder, "model", [sys.executable, str(ROOT / "tools" / "llm.py")])
    words = ["--model.init_args.output_folder", str(folder / "policy"), "--seed_everything", str(seed)]
    learn(folder, "imitation", [CONFIGS / "llm_warm_start.yaml"], words)


def learn(folder: Path, name: str, configs: Sequence[Path], words: Sequence[str]) -> None:
    """Carry out a training, or go on with it."""
    command = [str(Path(sys.executable).with_name("gigpo")), "fit"]
    for config in configs:
        command += ["--config", str(config)]
    command += ["--trainer.default_root_dir", str(folder), *words]
    if checkpoints_in(folder):
        command += ["--ckpt_path", "last"]
    part(folder, name, command)


def part(folder: Path, name: str, command: Sequence[str]) -> None:
    """Carry out a part of a run unless it is done, and write down what it took.

    Raises:
        SystemExit: With the part's exit code, if it is not 0.
    """
    record = folder / "parts.jsonl"
    if record.exists() and any(line["part"] == name and line["exit_code"] == 0 for line in read_lines(record)):
        logger.info("%s: done before", name)
        return
    logger.info("%s: %s", name, " ".join(command))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    code, most = watched(name, command)
    line = {"part": name, "seconds": round(time.monotonic() - begun, 1), "peak_gib": round(most, 2), "exit_code": code}
    with record.open("a") as file:
        file.write(json.dumps(line) + "\n")
    if code:
        logger.error("%s ended with exit code %d; the same command goes on from there", name, code)
        raise SystemExit(code)


def watched(name: str, command: Sequence[str]) -> tuple[int, float]:
    """Carry out a command, pass its lines on, and say so where it is silent; its exit code, and its most GiB.

    A signal ends the command, which may first write a checkpoint, and not this process before it.
    """
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}  # of the engine, too: a real model is worth it
    process = psutil.Popen(command, env=threads | dict(os.environ), stderr=subprocess.PIPE)
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal has told it, too
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    begun = said = looked = time.monotonic()
    most = 0.0
    while True:
        if select.select([process.stderr], [], [], _EVERY)[0]:
            lines = os.read(process.stderr.fileno(), 1 << 16)
            if not lines:
                break
            sys.stderr.buffer.write(lines)
            sys.stderr.flush()
            said = time.monotonic()
        elif process.poll() is not None:  # what it has begun may have its stderr still
            break
        now = time.monotonic()
        if now - looked > _EVERY:
            most, looked = max(most, resident_gib(process)), now
        if now - said > _SILENT:
            logger.info("%s: %.0f s so far", name, now - begun)
            said = now
    code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    return code, most


def resident_gib(process: psutil.Process) -> float:
    """Memory of a process and of all that it has started, in GiB; what they share counts once."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_full_info().pss
    except psutil.Error:  # one has just ended
        return 0.0
    return float(total / 2**30)


if __name__ == "__main__":
    main()
