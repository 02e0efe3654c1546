"""``gigpo export``: the policy of a checkpoint as a folder that others can use."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace

from callbacks.export import write_adapter, write_policy
from gigpo_lightning.config_action import refuse_nothing
from gigpo_lightning.last_checkpoint import Progress, last_checkpoint, read_progress
from gigpo_lightning.quick_answers import SUBCOMMANDS
from gigpo_lightning.strict_cli import StrictCLI
from gigpo_lightning.yaml_files import load_yaml_file
from modules.checkpoint_folder import META
from modules.checkpoint_io import check_file, check_whole
from modules.checkpoint_weights import trained_policy

_logger = logging.getLogger(__name__)

_KEYWORDS = ("last", "best")
_OF_FIT = ("weights_only", "dry_run", "device_gib", "optimizer_settings")  # as a run's config.yaml has them


class ExportCLI(StrictCLI):
    """Reads what ``fit`` reads, makes the module alone, and writes its policy.

    Args:
        words: The command line after ``export``.
        **kwargs: What LightningCLI takes.

    Raises:
        ValueError: If ``folder`` holds files, there is no checkpoint, or it is not of the module's policy.
        FloatingPointError: If a weight is not finite.
        FullDiskError: If there is no room for the folder.
    """

    def __init__(self, words: Sequence[str], **kwargs: Any) -> None:
        parser_kwargs = {"prog": "gigpo export", "description": SUBCOMMANDS["export"]}
        parser_kwargs["usage"] = "gigpo export --ckpt_path CKPT_PATH --folder FOLDER [--KEY VALUE ...]"
        super().__init__(
            args=list(words),
            run=False,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs=parser_kwargs,
            **kwargs,
        )
        self.export()

    def add_default_arguments_to_parser(self, parser: Any) -> None:
        """Add what an export is told."""
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint, or a run's folder, of which its last is taken; with --config also 'last', as fit finds "
            "it, or 'best' by the monitor of that run's ModelCheckpoint.",
        )
        parser.add_argument("--folder", type=str | None, default=None, help="Where to; it must be empty or not there.")
        parser.add_argument(
            "--adapter", type=bool, default=False, help="Write the LoRA adapters alone; default: added to the weights."
        )
        for name in ("seed_everything", *_OF_FIT):
            parser.add_argument(f"--{name}", type=Any, default=None, help="Nothing: only fit has a use for it.")

    def add_core_arguments_to_parser(self, parser: Any) -> None:
        """Add those of ``fit``, none of which is needed where the checkpoint holds its run's configuration."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True, required=False)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse them, with the checkpoint's own configuration where none is given."""
        self._given = _given(args)
        self.config = parser.parse_args([*_configuration(self._given), *args])
        refuse_nothing(parser, self.config)

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def instantiate_classes(self) -> None:
        """Make the module: no Trainer, no engine and no environment."""
        _check_folder(self.config.folder)
        self._path = self._given.path if self._given is not None else _checkpoint(self.config)
        if self.config.get("model") is None:
            raise ValueError(
                f"the configuration of the run of {self._path} is not known: neither the checkpoint nor a config.yaml "
                "beside it says; give the run's with --config"
            )
        self.config_init = self.parser.instantiate_classes(Namespace(model=self.config.model))
        self.model = self.config_init.model

    def export(self) -> None:
        """Write the policy's folder."""
        _logger.info("exporting %s", read_progress(self._path))
        policy, folder = trained_policy(self.model, self._path), Path(self.config.folder)
        (write_adapter if self.config.adapter else write_policy)(policy, folder)


def _check_folder(folder: str | None) -> None:
    """Refuse a folder in which anything lies."""
    if folder is None:
        raise ValueError("folder must say where to export to; give --folder")
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder must be a folder that is empty or not there, got the file {folder!r}")
    if path.is_dir() and (held := sorted(each.name for each in path.iterdir())):
        raise ValueError(f"folder must be empty or not there, got {folder!r}, which holds {held[0]}; choose another")


def _given(words: Sequence[str]) -> Progress | None:
    """The checkpoint, if its path is given and no configuration."""
    options = dict(_options(words))
    path = Path(options.get("--ckpt_path", "last"))
    if not options.keys().isdisjoint(("--config", "-c")) or str(path) in _KEYWORDS or not path.exists():
        return None
    return _inside(path)


def _configuration(given: Progress | None) -> list[str]:
    """Options that hand on a checkpoint's own configuration."""
    found = None if given is None else _run_configuration(given)
    return [] if found is None else ["--config", yaml.safe_dump({"model": found["model"]}, sort_keys=False)]


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option and its value."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            yield name, value if equals else "".join(words[index + 1 : index + 2])


def _run_configuration(progress: Progress) -> dict[str, Any] | None:
    """The configuration of a checkpoint's run, from the checkpoint or from the ``config.yaml`` of its run's folder."""
    held = progress.run_configuration()
    if held is not None:
        return held
    for folder in (progress.path.parent, progress.path.parent.parent):
        if (folder / "config.yaml").is_file():
            written = load_yaml_file(folder / "config.yaml")
            return written if isinstance(written, dict) and isinstance(written.get("model"), dict) else None
    return None


def _checkpoint(config: Namespace) -> Path:
    """The checkpoint that is meant.

    Raises:
        ValueError: If there is none.
    """
    asked = config.ckpt_path
    if asked is None:
        raise ValueError("ckpt_path must name a checkpoint or a run's folder; give --ckpt_path")
    if asked not in _KEYWORDS:
        return _inside(Path(asked)).path
    if config.get("model") is None:
        raise ValueError(
            f"ckpt_path {asked!r} needs --config, which says where the run writes; without it, give the path of a "
            "checkpoint or of a run's folder"
        )
    found = _furthest(_roots(config.trainer), asked)
    return found.path if asked == "last" else _best(found.path)


def _inside(path: Path) -> Progress:
    """A checkpoint, or the furthest of those in a folder."""
    if path.is_dir() and not (path / META).is_file():
        return _furthest([path], str(path))
    if not path.is_dir():
        check_whole(path)
    return read_progress(path)


def _furthest(roots: Sequence[Path], asked: str) -> Progress:
    found = last_checkpoint(roots, check_file, asked=asked)
    if found is None:
        where = " or ".join(map(str, roots))
        raise ValueError(f"ckpt_path {asked!r} needs a checkpoint under {where}, but there is none; give its path")
    return found


def _roots(trainer: Namespace) -> list[Path]:
    """Where a run with these settings writes its checkpoints."""
    roots = [Path(trainer.get("default_root_dir") or Path.cwd())]
    for entries in (trainer.get("logger"), trainer.get("callbacks")):
        for entry in entries if isinstance(entries, list) else [entries]:
            given = entry.get("init_args") if isinstance(entry, Namespace) else None
            if given is not None and given.get("save_dir"):
                roots.append(Path(given.save_dir) / (given.get("name") or ""))
            if given is not None and given.get("dirpath"):
                roots.append(Path(given.dirpath))
    return roots


def _best(last: Path) -> Path:
    """The best checkpoint of a run, as its last one remembers it.

    Raises:
        ValueError: If it does not remember one.
    """
    file = last / META if last.is_dir() else last
    callbacks = torch.load(file, map_location="cpu", mmap=True, weights_only=True).get("callbacks", {})
    watched = [each for each in callbacks.values() if isinstance(each, dict) and each.get("monitor")]
    for state in watched:
        path = Path(state.get("best_model_path") or "")
        for each in (path, last.with_name(path.name)):  # its run's folder may have been moved
            if path.name and each.exists():
                return each
    why = "its best checkpoint is gone" if watched else "its ModelCheckpoint has no monitor"
    raise ValueError(f"ckpt_path 'best' needs a run that has kept its best checkpoint, but of {last} {why}; use 'last'")
