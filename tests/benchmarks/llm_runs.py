"""The folders of a run of `make train-llm`, without the run."""

import json
from collections.abc import Sequence
from pathlib import Path


def write_run(
    folder: Path, method: str, seed: int, *, start: Sequence[int], end: Sequence[int], exit_code: int = 0
) -> None:
    """A run that was stopped once, with its imitation; ``start`` and ``end`` say which held-out games it won."""
    imitation, training = folder / f"imitation_{seed}", folder / f"{method}_{seed}"
    write_parts(imitation, ("imitation", 60.0, 3.0, 0))
    (imitation / "policy").mkdir(exist_ok=True)
    write_parts(training, (method, 60.0, 5.5, 143), (method, 60.0, 5.0, exit_code))
    for number, (policy_version, wins) in enumerate(((0, start), (9, end))):
        version = training / "lightning_logs" / f"version_{number}"
        version.mkdir(parents=True)
        episodes = [
            {
                "split": "valid_unseen",
                "policy_version": policy_version,
                "task_id": f"game {game}",
                "repeat": 0,
                "success": bool(won),
                "steps": 4,
            }
            for game, won in enumerate(wins)
        ]
        (version / "evaluations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in episodes))


def write_parts(folder: Path, *parts: tuple[str, float, float, int]) -> None:
    """What took part: its name, seconds, GiB and exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("part", "seconds", "peak_gib", "exit_code")
    text = "".join(json.dumps(dict(zip(names, part, strict=True))) + "\n" for part in parts)
    (folder / "parts.jsonl").write_text(text)
