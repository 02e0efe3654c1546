"""Compare the golden runs of two checkouts bit by bit, or renew the figures that are kept of them.

    python benchmarks/golden_runs.py compare OLD NEW [--runs gridworld alfworld replay] [-- --trainer.devices 2]
    python benchmarks/golden_runs.py renew

``compare`` carries out each run by each checkout's own code, with the configurations of this one, and exits with 1 if
a figure or a weight differs by a bit. ``renew`` writes tests/golden/*.csv: its commit says what has changed, and why.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.golden.runs import NAMES, final_weights, golden, logged, play, write_golden

RUNS = (*NAMES, "replay")


def compare(old: Path, new: Path, names: Sequence[str], more: Sequence[str], folder: Path) -> bool:
    """Say of each run whether it is the same in both checkouts."""
    same = True
    for name in names:
        one, other = (play(name, folder / side, checkout, more) for side, checkout in (("old", old), ("new", new)))
        figures, weights = (logged(one), logged(other)), (final_weights(one), final_weights(other))
        shared = figures[0].keys() & figures[1].keys()
        differ = sorted(key for key in shared if figures[0][key] != figures[1][key])
        only = sorted(figures[0].keys() ^ figures[1].keys())
        ruined = [
            key
            for key in sorted(weights[0].keys() | weights[1].keys())
            if key not in weights[0] or key not in weights[1] or not torch.equal(weights[0][key], weights[1][key])
        ]
        sys.stdout.write(
            f"{name}: {len(shared) - len(differ)} of {len(shared)} figures and "
            f"{len(weights[0]) - len(ruined)} of {len(weights[0])} weights are equal to the bit\n"
        )
        for key in differ:
            sys.stdout.write(f"  {key[0]}, epoch {key[1]}: {figures[0][key]!r} and {figures[1][key]!r}\n")
        for key in only:
            sys.stdout.write(f"  {key[0]}, epoch {key[1]}: only in the {'old' if key in figures[0] else 'new'}\n")
        for key in ruined:
            sys.stdout.write(f"  weight {key} differs\n")
        same = same and not differ and not ruined
    return same


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    comparison = commands.add_parser("compare")
    comparison.add_argument("old", type=Path)
    comparison.add_argument("new", type=Path)
    comparison.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    commands.add_parser("renew")
    words = sys.argv[1:]
    own, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    arguments = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="gigpo-golden-") as folder:
        if arguments.command == "renew":
            for name in NAMES:
                write_golden(name, golden(play(name, Path(folder))))
            return
        old, new = arguments.old.resolve(), arguments.new.resolve()
        if not compare(old, new, arguments.runs, more, Path(folder)):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
