"""A real language model learns to act, on two cores: what `make train-llm` and `make compare-llm` run.

    python benchmarks/llm/train.py [--seed 0 1 2] [--method gigpo grpo]

SmolLM2-135M is fetched, imitates a searching expert in small ALFWorld scenes, and then learns by GiGPO. Held-out games
in floor plans that it has not seen are played before and after, each once; the last line is the gain with its 95 %
interval. Every part goes on where it was stopped. Several methods start from the same imitation, seed by seed, and are
compared on the games after it.

``--runs`` is the folder of all runs. A run's folder there, ``<method>_<seed>``, has ``parts.jsonl``: a line for each
process that took part in it, with its wall-clock seconds and the largest memory it had, in GiB (its share of the pages
that processes have in common, looked at every two seconds). A process whose parent was killed has no line. The tables
of llm_results.py and the figure of curve.py are written into the folder of all runs.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import curve
import llm_results
import psutil
from llm_results import METHODS, STANDARD, Run, compared, parts_of, read_run

from gigpo_lightning.disk import checkpoints_in

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "alfworld"
MODEL = ROOT / "data" / "llm" / "SmolLM2-135M-Instruct"
_EVERY = 2.0  # seconds between looks at the memory of a part
_SILENT = 15.0  # seconds without a line

logger = logging.getLogger("train-llm")


def main(words: Sequence[str] | None = None) -> None:
    """Do what is not done yet, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seed", type=_seed, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--method", choices=METHODS, nargs="+", default=[STANDARD], help=f"default: {STANDARD}")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "llm", help="default: %(default)s")
    arguments = parser.parse_args(words)
    runs = arguments.runs.resolve()
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--runs must be a folder, or one that can be made, got {str(arguments.runs)!r}: {error.strerror}")
    try:
        done = []
        for seed in dict.fromkeys(arguments.seed):
            for method in dict.fromkeys(arguments.method):
                done.append(learnt(runs, method, seed))
                llm_results.collect(runs, runs)
                curve.main([str(runs)])
                logger.info("%s", said(done[-1]))
        for line in (*map(said, done), *compared(done)) if len(done) > 1 else ():
            logger.info("%s", line)
    except ValueError as error:
        sys.exit(str(error))


def learnt(runs: Path, method: str, seed: int) -> Run:
    """Have a run, and the imitation it begins with, which is made once for all methods.

    Raises:
        ValueError: If the imitation is gone, and a run that began with it is there; or if it is at work elsewhere.
    """
    imitation, training = runs / f"imitation_{seed}", runs / f"{method}_{seed}"
    start = imitation / "policy"
    began = [name for name in (f"{each}_{seed}" for each in METHODS) if (runs / name).exists()]
    if began and not start.exists():
        raise ValueError(
            f"{start} must be there, for {began[0]} began with it; bring it back, or remove {runs / began[0]}"
        )
    part(imitation, "model", [sys.executable, str(ROOT / "tools" / "llm.py")], MODEL)
    chosen = ["--model.init_args.output_folder", str(start), "--seed_everything", str(seed)]
    learn(imitation, "imitation", [CONFIGS / "llm_warm_start.yaml"], chosen, start)
    chosen = ["--model.init_args.policy.init_args.model", str(start), "--seed_everything", str(seed)]
    learn(training, method, [CONFIGS / "llm_cpu.yaml", *METHODS[method]], chosen, training)
    return read_run(training, imitation)


def said(run: Run) -> str:
    """A run in a line."""
    return (
        f"{run.method}, seed {run.seed}: {run.success_start:.3f} before, {run.success_end:.3f} after, on {run.games} "
        f"held-out games; gain {run.gain:+.3f} [{run.low:+.3f}, {run.high:+.3f}]; {run.minutes:.0f} minutes in all, "
        f"at most {run.peak_gib:.1f} GiB"
    )


def learn(folder: Path, name: str, configs: Sequence[Path], words: Sequence[str], makes: Path) -> None:
    """Carry out a training that makes a file or folder, or go on with it."""
    command = [str(Path(sys.executable).with_name("gigpo")), "fit"]
    for config in configs:
        command += ["--config", str(config)]
    command += ["--trainer.default_root_dir", str(folder), *words]
    if any(checkpoint.exists() for checkpoint in checkpoints_in(folder)):  # a link may point nowhere
        command += ["--ckpt_path", "last"]
    part(folder, name, command, makes)


def part(folder: Path, name: str, command: Sequence[str], makes: Path) -> None:
    """Carry out a part of a run unless it is done and what it makes is there; write down what it took.

    Raises:
        SystemExit: With the part's exit code, if it is not 0, as a shell tells it.
        ValueError: If another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "parts.jsonl"
    with held(folder) as lock:
        if makes.exists() and any(line["part"] == name and not line["exit_code"] for line in parts_of(folder)):
            logger.info("%s: done before, see %s", name, folder)
            return
        logger.info("%s: %s", name, " ".join(command))
        begun = time.monotonic()
        code, most = watched(name, command, lock)
        line = {
            "part": name,
            "seconds": round(time.monotonic() - begun, 1),
            "peak_gib": round(most, 2),
            "exit_code": code,
        }
        whole = not record.exists() or record.read_bytes().endswith(b"\n")
        with record.open("a") as file:
            file.write(("" if whole else "\n") + json.dumps(line) + "\n")
    if code:
        logger.error(
            "%s ended with exit code %d; once the cause is gone, the same command goes on from there", name, code
        )
        raise SystemExit(128 - code if code < 0 else code)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[int]:
    """Keep others out of a folder; a part that was given the lock, which is yielded, holds it when its parent is gone.

    Raises:
        ValueError: If another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is at work in {folder}; wait for it, or name another folder by --runs"
            ) from error
        try:
            yield file.fileno()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # even if the part has left something running


def watched(name: str, command: Sequence[str], lock: int) -> tuple[int, float]:
    """Carry out a command, pass its lines on, and say so where it is silent; its exit code, and its most GiB.

    A signal ends the command, which may first write a checkpoint, and not this process before it.
    """
    process: psutil.Popen | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        if process is None:
            sys.exit(128 + number)
        if number == signal.SIGTERM:  # of Ctrl-C the terminal has told it, too
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}  # of the engine, too: a real model is worth it
        process = psutil.Popen(
            command, cwd=ROOT, env=threads | dict(os.environ), stderr=subprocess.PIPE, pass_fds=(lock,)
        )
        most = _watch(name, process)
        return process.wait(), most
    finally:
        if process is not None and process.poll() is None:  # we have failed
            process.terminate()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(name: str, process: psutil.Popen) -> float:
    """Pass the lines of a process on until it ends; the most GiB it had."""
    begun = said = looked = time.monotonic()
    most = 0.0
    while True:
        if select.select([process.stderr], [], [], _EVERY)[0]:
            lines = os.read(process.stderr.fileno(), 1 << 16)
            if not lines:
                return most
            sys.stderr.buffer.write(lines)
            sys.stderr.flush()
            said = time.monotonic()
        elif process.poll() is not None:  # what it has begun may have its stderr still
            return most
        now = time.monotonic()
        if now - looked > _EVERY:
            most, looked = max(most, resident_gib(process)), now
        if now - said > _SILENT:
            logger.info("%s: %.0f s so far", name, now - begun)
            said = now


def resident_gib(process: psutil.Process) -> float:
    """Memory of a process and of all that it has started, in GiB; what they share counts once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                total += each.memory_full_info().pss
    return float(total / 2**30)


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {word!r}")
    return int(word)


if __name__ == "__main__":
    main()
