"""An hour with a GPU: what to measure first, stage by stage, so that nothing is lost when the hour ends early.

    python benchmarks/gpu_day.py check                  # what can run here, and which packages are missing
    python benchmarks/gpu_day.py all --minutes 30       # every stage, in the order of its value
    python benchmarks/gpu_day.py memory attention       # some of them
    python benchmarks/gpu_day.py report                 # the tables for benchmarks/README.md
    python benchmarks/gpu_day.py all --shape tiny       # the same on a CPU, to see that it runs

It needs a checkout and no installation. No checkpoint is needed: weights are random, and steps are made up with the
lengths of ALFWorld and the paper's prompt. Each part of a stage is a process of its own with a time limit. Its lines
of JSON, what it prints and all that it complains about lie in the folder ``--out`` as soon as they are known.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "benchmarks", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from gpu_stages.processes import run_here, run_stages  # noqa: E402
from gpu_stages.report import report  # noqa: E402
from gpu_stages.shapes import SHAPES  # noqa: E402
from gpu_stages.stages import STAGES, Stage  # noqa: E402


def main(words: list[str] | None = None) -> None:
    """Run the stages that were asked for; a stage that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", metavar="STAGE", help=f"all, report, or some of {', '.join(STAGES)}")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--minutes", type=float, default=30.0, help="time for all stages together")
    parser.add_argument("--limit", type=float, help="seconds of one process; default: what its stage needs")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_day"), help="folder of lines, output and complaints")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # run it in this process
    parser.add_argument("--function", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part is not None:
        (name,) = arguments.stages
        run_here(Stage(name=name, function=arguments.function), arguments.part, arguments)
        return
    unknown = [name for name in arguments.stages if name not in (*STAGES, "all", "report")]
    if unknown:
        parser.error(f"STAGE must be all, report or one of {', '.join(STAGES)}, got {', '.join(unknown)}")
    wanted = list(STAGES) if "all" in arguments.stages else [name for name in arguments.stages if name != "report"]
    run_stages([STAGES[name] for name in wanted], arguments)
    if "report" in arguments.stages or "all" in arguments.stages:
        sys.stdout.write(report(arguments.out))


if __name__ == "__main__":
    main()
