"""The command line ``gigpo-sweep``: finds out what to do, has it done, and says what came out."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gigpo_lightning.errors import RunError
from gigpo_lightning.sweep.composition import Sweep, compose
from gigpo_lightning.sweep.configuration import configured
from gigpo_lightning.sweep.launch import Launch, launch, threads
from gigpo_lightning.sweep.run import Run, State, Task, begin
from gigpo_lightning.sweep.table import cells_table, row, runs_table, write_csv

_logger = logging.getLogger(__name__)

_PAGE_WIDTH = 140  # of a table that goes to a file

_HELP = """\
Carry out many runs of `gigpo fit` that differ in what you say, each in a folder and a process of its own, and compare
them in a table. Every run is checked before the first one starts. The same command again goes on where it stopped:
runs that have finished are left as they are, those that were interrupted go on from their last checkpoint.
"""
_EXAMPLES = """\
overrides, in Hydra's grammar; with --multirun a key may have several values:
  run=gridworld_cpu              the config of the run, any of configs/: alfworld/tiny_cpu, ...
  credit=gigpo_paper,grpo        presets of configs/credit/, on top of the run's config
  seed_everything='range(5)'     any key of `gigpo fit`, here 0 to 4
  model.init_args.optimizer.init_args.lr=1e-3,4e-3
  hydra.sweep.dir=runs/rates     the sweep's folder; runs/sweep if it is not said
  hydra/launcher=joblib hydra.launcher.n_jobs=2    two runs at a time

examples:
  gigpo-sweep -m run=gridworld_cpu credit=gigpo_paper,grpo seed_everything='range(5)'
  gigpo-sweep -m --config-name gridworld --dry_run

The runs' folders, the launchers and what is refused: docs/sweeps.md.
"""


def main() -> None:
    """Run the command line; what a user can mend ends with one line, not a traceback."""
    level = os.environ.get("GIGPO_LOG_LEVEL", "INFO")
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        code = carry_out(sys.argv[1:])
    except KeyboardInterrupt:
        _logger.info("stopped before the first run")
        code = 128 + signal.SIGINT
    except (ValueError, OSError, RunError) as error:
        _logger.debug("the whole story:", exc_info=True)
        _logger.error("error: %s\n(GIGPO_LOG_LEVEL=DEBUG shows where it was raised)", error)
        code = 2
    if code:
        raise SystemExit(code)


def carry_out(words: Sequence[str], command: Sequence[str] | None = None) -> int:
    """Do what the words ask for.

    Args:
        words: The command line.
        command: What carries a run out; default: the script ``gigpo``.

    Returns:
        The exit code: 0 if every run has finished, 1 if not, 128 plus its number for a signal that stopped the sweep.

    Raises:
        ValueError: If a run is refused; then none has started.
    """
    arguments = command_line().parse_intermixed_args(words)
    sweep = compose(arguments.config_name, arguments.config_dir, arguments.overrides, arguments.multirun)
    _logger.info("checking %d run%s", len(sweep.runs), "s" if len(sweep.runs) > 1 else "")
    texts = _checked(sweep)
    left = {run: text for run, text in texts.items() if run.prepare(text)}
    if arguments.dry_run:
        for run in texts:
            _logger.info("%s: %s", run.folder, _plan(run, run in left))
        return 0
    for run, text in left.items():
        begin(run, text)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    stopped_by = 0
    if left:
        _logger.info("%d of %d runs left to do, in %s", len(left), len(texts), sweep.folder)
        stopped_by = _launch(sweep, tuple(left), tuple(command or _gigpo()))
    finished = _show(sweep, list(texts))
    return 128 + stopped_by if stopped_by else 0 if finished else 1


def command_line() -> argparse.ArgumentParser:
    """The options; the overrides among them are Hydra's to read."""
    parser = argparse.ArgumentParser(
        prog="gigpo-sweep",
        usage="gigpo-sweep [-m] [--config-name NAME] [--config-dir DIR] [--dry_run] [KEY=VALUE ...]",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="a key may have several values: run them all")
    name = "what to begin with, a file of configs/sweep/; default: default"
    parser.add_argument("-cn", "--config-name", default="default", metavar="NAME", help=name)
    folder = "a folder with configs of your own, laid out as configs/; may be repeated"
    parser.add_argument("-cd", "--config-dir", type=Path, default=[], action="append", metavar="DIR", help=folder)
    parser.add_argument("--dry_run", action="store_true", help="check every run, say what would be done, and stop")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    return parser


def _checked(sweep: Sweep) -> dict[Run, str]:
    """The configuration of every run, once all of them could be made."""
    texts = {}
    for each in sweep.runs:
        folder = sweep.folder / each.name
        try:
            texts[Run(folder=folder)] = configured([*each.options, f"--trainer.default_root_dir={folder}"])
        except ValueError as error:
            raise ValueError(f"{each.name}: {error}") from error
    return texts


def _plan(run: Run, left: bool) -> str:
    if not left:
        return "finished"
    return "goes on from its last checkpoint" if run.has_checkpoint() else "begins"


def _gigpo() -> tuple[str, ...]:
    script = Path(sys.executable).with_name("gigpo")
    if not script.is_file():
        raise ValueError(f"{script} must be there: it is what carries the runs out; install the project (make install)")
    return (str(script),)


def _launch(sweep: Sweep, left: Sequence[Run], command: tuple[str, ...]) -> int:
    stop_file = sweep.folder / f".stop-{os.getpid()}-{time.time_ns()}"
    task = Task(runs=tuple(left), command=command, stop_file=stop_file)
    environment = threads(sweep.launcher, len(left), os.environ | dict(sweep.variables))
    return launch(Launch(source=sweep.source, folder=sweep.folder, task=task, environment=environment))


def _show(sweep: Sweep, runs: Sequence[Run]) -> bool:
    """Write the table to stdout and to a file; whether every run has finished."""
    rows = [
        row(run, {key: each.overrides[key] for key in sweep.swept}) for run, each in zip(runs, sweep.runs, strict=True)
    ]
    write_csv(sweep.folder / "results.csv", rows)
    console = Console(width=None if sys.stdout.isatty() else _PAGE_WIDTH)
    console.print(runs_table(rows))
    if (cells := cells_table(rows)) is not None:
        console.print(cells)
    for each in rows:
        if each.record.state == State.FAILED:
            _logger.error(
                "%s failed with exit code %s: see %s", each.run.folder.name, each.record.exit_code, each.run.log
            )
    _logger.info("%s", sweep.folder / "results.csv")
    return all(each.record.state == State.FINISHED for each in rows)
