"""The one door: ``gigpo`` and its subcommands, a LightningCLI over the configs."""

import contextlib
import logging
import os
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import dict_to_namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from callbacks import OptimizerSettings
from callbacks.kept_configuration import KeptConfiguration
from callbacks.lightning_internals import typed
from gigpo_lightning.changed_configuration import changes, check_classes
from gigpo_lightning.check_command import NAME, carry_out
from gigpo_lightning.complaints import constructor_complaint, parser_complaint, with_section
from gigpo_lightning.disk import no_room
from gigpo_lightning.dry_run import engine_of, plan, plan_memory, planned_devices
from gigpo_lightning.engines.base import check_trainable
from gigpo_lightning.errors import Preempted, RunError, check_seed, is_ctrl_c, no_exit
from gigpo_lightning.evaluation_table import evaluation_table
from gigpo_lightning.export_command import ExportCLI
from gigpo_lightning.last_checkpoint import last_checkpoint, read_progress
from gigpo_lightning.machine import share_the_machine
from gigpo_lightning.messages import log_to_stderr, say_error
from gigpo_lightning.monitors import check_monitors, missing_metric
from gigpo_lightning.prompts.base import check_chat_template, check_markers
from gigpo_lightning.quick_answers import SUBCOMMANDS, asked_for, parser_settings
from gigpo_lightning.quiet import leave_out_noise
from gigpo_lightning.ranks import wait_for_tensors_to_go
from gigpo_lightning.standard_settings import add_standard
from gigpo_lightning.strict_cli import MENDABLE, REFUSED, StrictCLI
from gigpo_lightning.trainer_settings import check_trainer, explain_trainer
from modules import AtomicCheckpointIO
from modules.checkpoint_folder import META
from modules.checkpoint_io import check_file, check_whole
from modules.policy import hide_bars_from_files
from modules.run_folder import Claim, chosen_folder, claimed, hold

__all__ = ["MENDABLE", "GigpoCLI", "build_cli", "checked_configuration", "main", "share_the_machine", "what_is_wrong"]

_logger = logging.getLogger(__name__)

_MORE_HELP = (
    "The keys of a class: gigpo {subcommand} --model.help modules.GiGPOModule, and --data.help "
    "datamodules.RolloutDataModule. The whole configuration, defaults filled in: --print_config. Examples: configs/."
)


class GigpoCLI(StrictCLI):
    """LightningCLI with what every run of ours wants checked before it starts."""

    _claims: tuple[Claim, ...] = ()

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        words = sys.argv[1:] if args is None else args
        self._asked = asked_for(words) if isinstance(words, list) else None
        super().__init__(args=args, **kwargs)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        said = {name: {"description": text} | kwargs.get(name, {}) for name, text in SUBCOMMANDS.items()}
        super()._add_subcommands(parser, **said)
        assert parser._subcommands_action is not None
        for name in ("export", NAME):  # their parsers are their own
            parser._subcommands_action.add_subcommand(name, self.init_parser(), help=SUBCOMMANDS[name])
        for choice in parser._subcommands_action._choices_actions:
            choice.help = SUBCOMMANDS.get(choice.dest, choice.help)  # the Trainer's own are cut within a sentence

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self._asked not in (None, subcommand):
            return self.init_parser(**kwargs)  # nobody asks for its options
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # Written out by argparse, the usage is a screen of options that the help lists again.
        parser.usage = f"gigpo {subcommand} --config CONFIG [--KEY VALUE ...]"
        parser.epilog = _MORE_HELP.format(subcommand=subcommand)
        if subcommand == "fit":
            parser.add_argument("--dry_run", action="store_true", help="Say what would be done, and do none of it.")
            parser.add_argument(
                "--device_gib",
                type=float | None,
                default=None,
                help="Memory of each device that --dry_run plans with, in GiB; default: this machine's device's, or a "
                "GPU's of 80 GB where it has none.",
            )
            parser.add_argument(
                "--optimizer_settings",
                type=Literal["checkpoint", "config"],
                default="checkpoint",
                help="Whose settings the optimizer and the scheduler of a run that goes on have.",
            )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let ``--seed_everything`` seed the tasks, the sampling noise and the minibatches too."""
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_seed)

    def before_instantiate_classes(self) -> None:
        """Write into the configuration what every run has: callbacks, and checkpoints that are whole or not there.

        What a user names takes the place of ours; ``trainer.enable_checkpointing: false`` leaves checkpoints out.
        """
        if self.subcommand:
            add_standard(self.config[self.subcommand], self.subcommand)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer of settings that a run can have."""
        given = self._get(self.config_init, "trainer", default={})
        check_trainer(vars(given))
        known = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
        if isinstance(given.get("accelerator"), str) and given["accelerator"] not in known:
            raise ValueError(f"trainer.accelerator must be one of {', '.join(known)}, got {given['accelerator']!r}")
        if self._is_dry_run() and given.get("accelerator", "auto") not in ("auto", "cpu"):
            # The machine that plans need not have the devices that are planned with.
            kwargs |= {"accelerator": "cpu", "devices": planned_devices(given.get("devices", "auto"))}
            kwargs |= {"strategy": "ddp"} if given.get("strategy") == "fsdp" else {}
        try:
            return super().instantiate_trainer(**kwargs)
        except REFUSED as error:
            said = explain_trainer(error, vars(given))
            raise ValueError(said or constructor_complaint(error, Trainer, vars(given), "trainer")) from error

    def _is_dry_run(self) -> bool:
        return bool(self._get(self.config_init, "dry_run", default=False))

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train; in a dry run only say how the work is dealt out and what memory it takes, last as a line of JSON."""
        if not self._is_dry_run():
            self.trainer.fit(model, **kwargs)
            return
        given = self._get(self.config_init, "trainer", default={})
        chosen = given.get("accelerator"), given.get("strategy")
        lines = plan(self.trainer, model, self.datamodule, *chosen)
        for line in (*lines[:2], *self._said, *lines[2:]):
            _logger.info(line)
        policy, device_gib = self._skeleton, self.config_init["fit"]["device_gib"]
        memory = plan_memory(self.trainer, model, self.datamodule, *chosen, policy=policy, device_gib=device_gib)
        for line in memory.lines:
            _logger.info(line)
        for line in memory.warnings:
            _logger.warning("warning: %s", line)
        _logger.info(memory.numbers)

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluate on the held-out splits, and print what came of it."""
        self._evaluate(self.trainer.validate, model, **kwargs)

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluate on the test splits, and print what came of it."""
        self._evaluate(self.trainer.test, model, **kwargs)

    def _evaluate(self, evaluate: Callable[..., Any], model: LightningModule, verbose: bool, **kwargs: Any) -> None:
        results = evaluate(model, verbose=False, **kwargs)  # Lightning's own table has numbers of 17 digits
        if verbose and self.trainer.is_global_zero and any(results):
            Console().print(evaluation_table(results, str(self.subcommand), engine_of(self.datamodule)))

    def _run_subcommand(self, subcommand: str) -> None:
        """Carry the subcommand out in a folder that no other run gets; one that is only planned has none."""
        with contextlib.nullcontext(()) if self._is_dry_run() else claimed(self.trainer) as self._claims:
            try:
                super()._run_subcommand(subcommand)
            except (RuntimeError, MisconfigurationException) as error:
                if said := missing_metric(error):
                    raise ValueError(said) from error
                raise

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint unread: the configuration alone says what a run is, and its loader what is wrong."""

    def before_fit(self) -> None:
        """Refuse to write over another run's checkpoints, and find the one to go on from.

        Raises:
            ValueError: If there are checkpoints and no ``--ckpt_path`` says to go on from one, or there is none and
                it says ``last``; if another run is at work there.
        """
        folders = self._checkpoint_folders()
        found = sorted(path for folder in folders for path in folder.glob("*.ckpt"))
        if self.config["fit"].get("ckpt_path") is None and found:
            raise ValueError(
                f"the run folder must be empty for a new run, but has checkpoints such as {found[0]}; go on from one "
                "with --ckpt_path, or choose another folder with --trainer.default_root_dir"
            )
        self._find_checkpoint()
        self._rehearse()
        self._compare_configurations()
        if self.trainer.is_global_zero and not self._is_dry_run():
            numbered = [claim.folder for claim in self._claims]
            hold(folder for folder in folders if folder.parent not in numbered)

    def _rehearse(self) -> None:
        """Try out what can be tried without weights and engines, and remember what came of it."""
        check_trainable(engine_of(self.datamodule))
        try:
            rehearsal = self.model.rehearse(self.trainer) if hasattr(self.model, "rehearse") else None
        except ValueError as error:
            raise ValueError(with_section(str(error), type(self.model), "model.init_args")) from error
        of_scheduler = None if rehearsal is None else rehearsal.monitor
        check_monitors(typed(self.trainer).callbacks, self.model, self.datamodule, of_scheduler)
        prompt = getattr(getattr(self.datamodule, "player", None), "prompt", None)
        if rehearsal is not None and rehearsal.policy is not None and prompt is not None:
            check_markers(prompt, rehearsal.policy.tokenizer.is_unknown)
            check_chat_template(prompt, rehearsal.policy.tokenizer)
        self._said = [rehearsal.said] if rehearsal is not None else []
        self._skeleton = rehearsal.policy if rehearsal is not None else None

    def before_validate(self) -> None:
        """Find the checkpoint that ``last`` means."""
        self._find_checkpoint()

    before_test = before_predict = before_validate

    def _checkpoint_folders(self) -> list[Path]:
        """Where this run will write its checkpoints."""
        chosen = chosen_folder(self.trainer)
        folders = [chosen / "checkpoints"] if chosen else []
        theirs = [each for each in self.trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        return folders + [Path(each.dirpath) for each in theirs if each.dirpath]

    def _find_checkpoint(self) -> None:
        """Give ``--ckpt_path last`` its meaning: the furthest checkpoint of any run under the same folder.

        Lightning looks only where the new run will write, and begins anew, with a warning, if there is nothing.
        """
        subcommand = self.config_init[str(self.subcommand)]
        if subcommand.get("ckpt_path") == "last":
            subcommand["ckpt_path"] = str(self._last_checkpoint())
        path, ours = subcommand.get("ckpt_path"), isinstance(self.trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        if ours and path not in (None, "best", "hpc") and not (Path(path) / META).is_file():
            check_whole(path)  # before a model is loaded, and whatever strategy reads it then

    def _last_checkpoint(self) -> Path:
        """The furthest checkpoint under the folders that this run would write to."""
        roots: list[Path] = []
        others = [root for logger in self.trainer.loggers if (root := getattr(logger, "root_dir", None))]
        for folder in map(Path, (self.trainer.default_root_dir, *others, *self._checkpoint_folders())):
            if not any(folder.is_relative_to(root) for root in roots):
                roots.append(folder)
        ours = isinstance(self.trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        found = last_checkpoint(roots, check_file if ours else lambda path: None, to_go_on=self.subcommand == "fit")
        if found is None:
            raise ValueError(
                f"ckpt_path 'last' needs a checkpoint under {' or '.join(map(str, roots))}, but there is "
                "none; for a new run leave it out, for another run's give its path"
            )
        return found.path

    def _compare_configurations(self) -> None:
        """Say what this run does otherwise than the checkpoint's, and decide whose settings its optimizer has."""
        path, callbacks = self.config_init["fit"].get("ckpt_path"), typed(self.trainer).callbacks
        own = [each for each in callbacks if isinstance(each, OptimizerSettings)]
        source = own[0].source if own else self.config_init["fit"]["optimizer_settings"]
        if path is None:
            return
        try:
            then = read_progress(Path(path)).run_configuration()
        except (ValueError, OSError):  # in a store, or another CheckpointIO's; what loads it says what is wrong
            then = None
        if not own and (then is None or source == "config"):
            callbacks.insert(0, OptimizerSettings(source))  # which says what it finds
        if then is None:
            _logger.info("the configuration of the run of %s is not known: what differs from it cannot be said", path)
            return
        kept = getattr(self.model, "optimizer_arguments", ()) if source == "checkpoint" else ()
        found = changes(then, yaml.safe_load(self.run_configuration()), [f"model.init_args.{name}" for name in kept])
        check_classes(found)
        for change in found:
            _logger.info("other than in the checkpoint's run: %s", change)
        held = then["model"].get("init_args", {})
        for name in held.keys() & set(kept):
            value = dict_to_namespace(held[name]) if isinstance(held[name], dict) else held[name]
            self.config["fit"].model.init_args[name] = value

    def run_configuration(self) -> str:
        """The whole configuration of ``fit``, as YAML, without the options of the command line alone."""
        config = self.config["fit"].clone()
        for key in ("config", "device_gib", "dry_run", "optimizer_settings"):
            config.pop(key, None)
        return str(self._parser("fit").dump(config, skip_unset=False))


def build_cli(args: Any = None, run: bool = True) -> StrictCLI:
    """Parse the arguments and, with ``run``, carry out the subcommand.

    Args:
        args: Command line as a list, or a configuration as a dictionary; default: the process's own command line.
        run: Whether the first argument is a subcommand to be carried out.

    Raises:
        RunError: If a class that the configuration names calls ``sys.exit``.
    """
    words = sys.argv[1:] if args is None else args
    if run and isinstance(words, list) and words[:1] == [NAME]:
        raise SystemExit(carry_out(words[1:]))
    with no_exit():
        if run and isinstance(words, list) and words[:1] == ["export"]:
            return ExportCLI(words[1:], model_class=LightningModule, datamodule_class=LightningDataModule)
        return GigpoCLI(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=KeptConfiguration,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,  # modules make their own; a second --optimizer would replace them silently
            parser_kwargs=parser_settings(),
            args=args,
            run=run,
        )


def checked_configuration(options: Sequence[str]) -> str:
    """Make every object of a ``gigpo fit --dry_run`` once, and write its whole configuration out as YAML.

    Raises:
        ValueError: If the run would be refused, in the same words.
    """
    variables, level = dict(os.environ), logging.root.manager.disable
    logging.disable(logging.WARNING)  # the run itself will say it, in its log
    try:
        with warnings.catch_warnings(action="ignore"):
            cli = build_cli(["fit", *options, "--dry_run"])
            assert isinstance(cli, GigpoCLI)
            return cli.run_configuration()
    except MENDABLE as error:
        raise ValueError(what_is_wrong(error)) from error
    finally:
        logging.disable(level)
        os.environ.clear()
        os.environ.update(variables)


def main() -> None:
    """Run the command line; what a user can mend ends with one line, not a traceback."""
    rank = getattr(rank_zero_only, "rank", 0)
    # What every rank would say, the first says; what went wrong, each.
    log_to_stderr(*(("WARNING", f"rank {rank}: %(message)s") if rank else ()))
    leave_out_noise()
    hide_bars_from_files()
    share_the_machine()
    exit_code = 0
    try:
        build_cli()
    except Preempted as stop:
        exit_code = stop.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        if not is_ctrl_c(stop):
            raise
        raise SystemExit(128 + signal.SIGINT) from stop
    except MENDABLE as error:
        say_error(what_is_wrong(error))
        raise SystemExit(2) from error
    wait_for_tensors_to_go()
    if exit_code:
        raise SystemExit(exit_code)


def _seed(value: Any) -> int:
    if value is None:
        raise ValueError("seed_everything must be a whole number, got nothing")
    check_seed(int(value), "seed_everything")
    return int(value)


def what_is_wrong(error: BaseException) -> str:
    """The message in one line, without what jsonargparse says around it; an environment's own traceback as it is."""
    if isinstance(error, RunError):
        return str(error)
    parsed = isinstance(error, ArgumentError | MisconfigurationException) or "Does not validate" in str(error)
    message = parser_complaint(str(error)) if parsed else " ".join(str(error).split())
    reason = no_room(error) if isinstance(error, OSError) else ""
    return f"{message}: {reason}; make room, and go on with --ckpt_path last" if reason else message
