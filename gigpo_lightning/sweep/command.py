"""The command line ``gigpo-sweep``: checks every run of a sweep, has them carried out, and compares them in a table."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gigpo_lightning.disk import checkpoints_in
from gigpo_lightning.errors import RunError
from gigpo_lightning.messages import log_to_stderr, say_error
from gigpo_lightning.sweep.composition import compose
from gigpo_lightning.sweep.runs import is_left, launch, prepare
from gigpo_lightning.sweep.table import cells_table, row, runs_table, write_csv
from gigpo_lightning.text import count

_logger = logging.getLogger(__name__)
_HELP = """\
Carry out many runs of `gigpo fit`, each in a folder and a process of its own, and compare them in a table. Every run is
checked before the first one starts. The same command again goes on where it stopped.

  gigpo-sweep -m run=gridworld_cpu credit=gigpo_paper,grpo seed_everything='range(5)' hydra.sweep.dir=runs/mine

run is a config of configs/, credit a preset of configs/credit/; any key of `gigpo fit` may follow, in Hydra's grammar.
The runs' folders, the launchers and what is refused: docs/sweeps.md.
"""


def main() -> None:
    """Run the command line; what a user can mend ends with one line, not a traceback."""
    log_to_stderr()
    try:
        raise SystemExit(carry_out(sys.argv[1:]))
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + signal.SIGINT) from stop
    except (ValueError, OSError, RunError) as error:
        say_error(str(error))
        raise SystemExit(2) from error


def carry_out(words: Sequence[str], command: Sequence[str] = ()) -> int:
    """Do what the words ask for; ``command`` carries a run out, by default the script ``gigpo``.

    Returns:
        The exit code: 0 if every run has finished, 1 if not, 128 plus its number for a signal that stopped the sweep.

    Raises:
        ValueError: If a run is refused; then none has started.
    """
    arguments = command_line().parse_intermixed_args(words)
    sweep = compose(arguments.config_name, arguments.config_dir, arguments.overrides, arguments.multirun)
    _logger.info("checking %s", count(len(sweep.runs), "run"))
    from gigpo_lightning.cli import checked_configuration  # takes seconds, and a launcher's processes need none of it

    texts = {}
    for run in sweep.runs:
        folder = sweep.folder / run.name
        try:
            texts[folder] = checked_configuration([*run.options, f"--trainer.default_root_dir={folder}"])
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from error
    left = [folder for folder, text in texts.items() if is_left(folder, text)]
    if arguments.dry_run:
        for folder in texts:
            plan = "goes on from its last checkpoint" if checkpoints_in(folder) else "begins"
            _logger.info("%s: %s", folder, plan if folder in left else "finished")
        return 0
    for folder in left:
        prepare(folder, texts[folder])
    _logger.info("%d of %s left to do, in %s", len(left), count(len(texts), "run"), sweep.folder)
    stopped_by = launch(sweep, left, command or [str(Path(sys.executable).with_name("gigpo"))]) if left else 0
    rows = [row(sweep.folder / run.name, {key: run.overrides[key] for key in sweep.swept}) for run in sweep.runs]
    write_csv(sweep.folder / "results.csv", rows)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in filter(None, (runs_table(rows), cells_table(rows))):
        console.print(table)
    for each in rows:
        if each.record.state == "failed":
            said = each.folder.name, each.record.exit_code, each.folder / "log.txt"
            _logger.error("%s failed with exit code %s: see %s", *said)
    _logger.info("%s", sweep.folder / "results.csv")
    code = 0 if all(each.record.state == "finished" for each in rows) else 1
    return 128 + stopped_by if stopped_by else code


def command_line() -> argparse.ArgumentParser:
    """The options; the overrides among them are Hydra's to read."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gigpo-sweep", description=_HELP, formatter_class=form, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true", help="a key may have several values: run them all")
    name = "what to begin with, a file of configs/sweep/; default: default"
    parser.add_argument("-cn", "--config-name", default="default", metavar="NAME", help=name)
    folder = "a folder with configs of your own, laid out as configs/; may be repeated"
    parser.add_argument("-cd", "--config-dir", type=Path, default=[], action="append", metavar="DIR", help=folder)
    parser.add_argument("--dry_run", action="store_true", help="check every run, say what would be done, and stop")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="in Hydra's grammar, as above")
    return parser
