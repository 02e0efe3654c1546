"""Stands for ``gigpo`` where a sweep is tested: does in a moment what its run's seed asks for.

Seed 0 finishes, 1 fails, 2 waits for SIGTERM and leaves a checkpoint, 3 waits and answers to nothing; a run that goes
on finishes. It is a program of its own, imported by nobody.
"""

import json
import signal
import sys
import time
from pathlib import Path

import yaml


def play(folder: Path, version: int, won: list[bool]) -> None:
    lines = [
        {"split": "valid", "policy_version": version, "task_id": str(task), "repeat": 0, "success": success}
        for task, success in enumerate(won)
    ]
    with (folder / "evaluations.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def save(folder: Path) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "preempted.ckpt").write_bytes(b"learnt")


def main() -> int:
    words = sys.argv[1:]
    config = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
    root, seed = Path(config["trainer"]["default_root_dir"]), config["seed_everything"]
    going_on = words[-2:] == ["--ckpt_path", "last"]
    folder = root / f"version_{len(list(root.glob('version_*')))}"
    folder.mkdir()
    if not going_on:
        play(folder, 0, [False, False])
    if seed == 1:
        sys.stderr.write("error: the engine is gone\n")
        return 2
    if seed == 2 and not going_on:
        signal.sigwait({signal.SIGTERM})
        save(folder)
        return 143
    while seed == 3:
        time.sleep(60)
    play(folder, 5, [True, False])
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main())
