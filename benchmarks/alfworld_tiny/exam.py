"""Has every run that has ended play one more evaluation, on 1440 games made for it: what it learnt, more surely.

    python benchmarks/alfworld_tiny/exam.py runs/alfworld_experiment
    python benchmarks/alfworld_tiny/exam.py runs/alfworld_experiment --credit grpo-trajectory-nostd tuned

An evaluation of a run plays 480 games, whose noise is as large as what methods differ by. The games of this one are of
``exam.yaml``, and no choice was made by them. A run keeps its episodes as ``exam.jsonl``; a run that has it is left as
it is, so the command goes on where it was stopped. It takes two cores a minute and a half for each run. ``--start`` has
the policy play them that all runs began with, once: ``start.jsonl``, in the folder that is named.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from collect import homes, read_run

_logger = logging.getLogger(__name__)

SETTINGS = Path(__file__).with_name("exam.yaml")
START = (Path(__file__).with_name("experiment.yaml"), Path(__file__).parent / "credit" / "tuned.yaml")
GIGPO = (sys.executable, "-c", "from gigpo_lightning.cli import main; main()")


def left(folder: Path, presets: Sequence[str] = ()) -> list[Path]:
    """The runs below a folder that have ended and not been examined, in the order of their seeds.

    Args:
        folder: Of runs, at any depth.
        presets: Only runs of these cells; default: of all.
    """
    found = []
    for home, versions in homes(folder).items():
        words = home.name.split(",")
        named = not presets or any(f"credit={preset}" in words for preset in presets)
        if named and not (home / "exam.jsonl").exists() and (run := read_run(versions)).ended:
            found.append((run.seed, home))
    return [home for _, home in sorted(found)]


def examine(home: Path, command: Sequence[str] = GIGPO) -> None:
    """Have a run's last policy play the games, and keep its episodes beside the run.

    Args:
        home: The run's folder.
        command: ``gigpo``.

    Raises:
        CalledProcessError: If it fails; what it said is in the log, and nothing is kept.
    """
    checkpoints = [version / "checkpoints" / "last.ckpt" for version in homes(home)[home]]
    *_, last = (checkpoint for checkpoint in checkpoints if checkpoint.exists())
    _play((*command, "validate", *_configs(home / "config.yaml"), "--ckpt_path", str(last)), home / "exam.jsonl")


def examine_start(folder: Path, command: Sequence[str] = GIGPO) -> None:
    """Have the policy that no run has trained yet play the games, unless it has.

    Args:
        folder: Where ``start.jsonl`` is to be.
        command: ``gigpo``.

    Raises:
        CalledProcessError: If it fails; nothing is kept.
    """
    if not (folder / "start.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _play((*command, "validate", *_configs(*START)), folder / "start.jsonl")


def _configs(*paths: Path) -> list[str]:
    return [word for path in (*paths, SETTINGS) for word in ("--config", str(path))]


def _play(command: Sequence[str], kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".exam-") as folder:
        subprocess.run([*command, "--trainer.default_root_dir", folder], check=True)
        (episodes,) = Path(folder).rglob("evaluations.jsonl")
        episodes.rename(kept)


def main() -> None:
    """Examine the runs below the folder that is named."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--credit", nargs="*", default=(), help="only runs of these presets")
    parser.add_argument("--start", action="store_true", help="the policy that runs begin with, too")
    arguments = parser.parse_args()
    if arguments.start:
        examine_start(arguments.folder)
    homes_left = left(arguments.folder, arguments.credit)
    for number, home in enumerate(homes_left):
        _logger.info("exam %d of %d: %s", number + 1, len(homes_left), home)
        examine(home)


if __name__ == "__main__":
    main()
