"""A run's folder. It is made when its number is chosen, so that no other run gets the same one."""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks.lightning_internals import choose_version, has_chosen_version
from gigpo_lightning.errors import RunError

# What is written before a run begins.
_FIRST_FILES = ("config.yaml", "hparams.yaml", "manifest.json", "events.out.tfevents.*")

# Preempted is none of them; SystemExit is how Lightning answers Ctrl-C.
_REFUSALS = (ValueError, OSError, ImportError, RunError, SystemExit)

_MOST_VANISHED = 100  # folders above that others have removed meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A folder ``version_N`` that this process has made for a run, and all that it made with it, innermost first."""

    folder: Path
    made: tuple[Path, ...]


def claim(trainer: Trainer) -> tuple[Claim, ...]:
    """Make the folder of each logger that chooses its own by number, and keep to that number.

    Lightning looks for the highest number and makes the folder later; between the two, another run may choose the
    same. Each logger gets a number of its own. The first rank claims; the others ask it (``follow``). Loggers whose
    version is given, or chosen already, and those that write elsewhere, are left as they are.

    Raises:
        OSError: If a folder cannot be made.
    """
    if not trainer.is_global_zero:
        return ()
    return tuple(_claim(logger) for logger in _numbered(trainer) if not has_chosen_version(logger))


def follow(trainer: Trainer) -> None:
    """Have the loggers of all ranks take the first rank's numbers; every rank must call it, once they are connected."""
    loggers = _numbered(trainer)
    versions = trainer.strategy.broadcast([logger.version if trainer.is_global_zero else None for logger in loggers])
    for logger, version in zip(loggers, versions, strict=True):
        choose_version(logger, version)


def hold(folders: Iterable[Path]) -> None:
    """Keep other runs out of folders that were not claimed, until this process ends, by a file beside each.

    Raises:
        ValueError: If another process holds one of them.
    """
    for folder in folders:
        if folder.parts[0].endswith(":"):
            continue  # of a store
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process's own: its workers do not inherit it
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise ValueError(
                f"a run's folder must be one run's at a time, but another is at work in {folder}; choose another "
                "folder with --trainer.default_root_dir"
            ) from error
        except OSError:
            os.close(descriptor)  # a file system without locks


def withdraw(claims: Sequence[Claim]) -> None:
    """Remove the folders in which nothing was written."""
    for each in claims:
        for folder in each.made:
            with contextlib.suppress(OSError):  # there is something in it, so that it stays
                folder.rmdir()


class RunFolder(Callback):
    """Claims the run's folder where it is made, has all ranks write into it, and removes it if it stays empty.

    A module's ``configure_callbacks``, the first hook of a run, returns one; the Trainer replaces that of a run before.

    Args:
        trainer: About to begin; its loggers may not have been asked for a folder.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.claims = claim(trainer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Follow the first rank."""
        follow(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no empty folder."""
        withdraw(self.claims)


@contextlib.contextmanager
def claimed(trainer: Trainer) -> Iterator[tuple[Claim, ...]]:
    """Claim the run's folders, and remove them if the run ends without anything that is worth keeping.

    That is before it asks for its first data or, if it was refused or interrupted, before its first update or the end
    of its first evaluation. A defect of ours leaves them.

    Raises:
        ValueError: If a folder cannot be made.
    """
    try:
        claims = claim(trainer)
    except OSError as error:
        raise ValueError(
            f"trainer.default_root_dir must be a folder that a run's can be made in, got "
            f"{str(trainer.default_root_dir)!r}: {error}"
        ) from error
    try:
        yield claims
    except BaseException as error:
        if not _has_begun(trainer) or (isinstance(error, _REFUSALS) and not _has_learnt(trainer)):
            for each in claims:
                _remove_first_files(each.folder)
            withdraw(claims)
        raise


def chosen_folder(trainer: Trainer) -> Path | None:
    """The run's folder, or nothing as long as its number is not chosen."""
    first = trainer.loggers[0] if trainer.loggers else None
    if isinstance(first, TensorBoardLogger | CSVLogger) and not has_chosen_version(first):
        return None
    return Path(trainer.log_dir or trainer.default_root_dir)


def _numbered(trainer: Trainer) -> list[TensorBoardLogger | CSVLogger]:
    """The loggers that may choose a folder by number, in the Trainer's order."""
    own = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger | CSVLogger)]
    return [logger for logger in own if "://" not in str(logger.save_dir)]


def _claim(logger: TensorBoardLogger | CSVLogger) -> Claim:
    root = logger.root_dir
    if isinstance(logger, TensorBoardLogger):  # which looks for numbers in the unexpanded one
        root = os.path.expanduser(os.path.expandvars(root))
    number, vanished = int(logger.version), 0
    while True:
        folder = Path(root) / f"version_{number}"
        made = (folder, *(above for above in folder.parents if not above.exists()))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if _is_new(folder):
                choose_version(logger, number)
                return Claim(folder=folder, made=made)
            number += 1
        except FileNotFoundError:  # another run has withdrawn, and with it a folder above
            vanished += 1
            if vanished == _MOST_VANISHED:  # or no folder can be made there, as below /proc
                raise


def _is_new(folder: Path) -> bool:
    """Make a folder; whether it was not there before."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _has_begun(trainer: Trainer) -> bool:
    loaders = (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders)
    return any(loader is not None for loader in loaders)


def _has_learnt(trainer: Trainer) -> bool:
    return getattr(trainer.lightning_module, "has_learnt", True)


def _remove_first_files(folder: Path) -> None:
    """Remove what a run writes before it begins, unless there is something else."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    if all(any(fnmatch(file.name, known) for known in _FIRST_FILES) for file in files):
        for file in files:
            file.unlink()
