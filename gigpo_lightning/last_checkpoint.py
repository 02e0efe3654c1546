"""Which of many checkpoints ``last`` means: the one whose run had come furthest, as the checkpoints themselves say."""

import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gigpo_lightning.disk import checkpoints_in
from gigpo_lightning.text import count

_logger = logging.getLogger(__name__)

CONFIGURATION = "configuration"
"""Where a checkpoint holds its run's configuration, as YAML."""

_UNREADABLE = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)
_SAID = 3  # of the checkpoints that tie


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a checkpoint says of its run; nothing of the weights is read for it.

    Attributes:
        path: The checkpoint.
        epochs: Epochs that were done.
        global_step: Optimizer steps that were done.
        resumable: Whether a run can go on from it; else it holds weights only.
        written: The file's time, in nanoseconds since 1970.
        configuration: Its run's configuration, as YAML; None if it does not say.
    """

    path: Path
    epochs: int
    global_step: int
    resumable: bool
    written: int
    configuration: str | None = None

    def run_configuration(self) -> dict[str, Any] | None:
        """Its run's configuration; None if it does not hold one."""
        try:
            held = yaml.safe_load(self.configuration or "")
        except yaml.YAMLError:
            return None
        return held if isinstance(held, dict) and isinstance(held.get("model"), dict) else None

    def __str__(self) -> str:
        return f"{self.path} ({count(self.epochs, 'epoch')} done, global step {self.global_step})"


def read_progress(path: Path) -> Progress:
    """Read how far a checkpoint's run had come; it is a file, or a folder that a sharding strategy wrote.

    Raises:
        ValueError: If it cannot be read, or does not say.
        FileNotFoundError: If there is none.
    """
    file = path / "meta.pt" if path.is_dir() else path
    try:
        checkpoint = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        epochs, step = _epochs(checkpoint), checkpoint["global_step"]
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(epochs, int) or not isinstance(step, int):
        raise ValueError(f"{path} does not say how far its run had come")
    configuration = checkpoint.get(CONFIGURATION)
    return Progress(
        path=path,
        epochs=epochs,
        global_step=step,
        resumable=path.is_dir() or "optimizer_states" in checkpoint,
        written=file.stat().st_mtime_ns,
        configuration=configuration if isinstance(configuration, str) else None,
    )


def last_checkpoint(
    roots: Iterable[Path],
    check: Callable[[Path], None] = lambda path: None,
    *,
    to_go_on: bool = False,
    asked: str = "last",
) -> Progress | None:
    """The checkpoint with the most epochs done in any folder below those given, and of these the most optimizer steps.

    File times decide where several have come equally far: clocks jump, and copies have times of their own. Passed over,
    with a warning, is what cannot be read, what ``check`` refuses by a ``ValueError`` (only the best ones are checked)
    and, ``to_go_on``, what holds weights only. The log says what was taken, and why,
    in the words of what was ``asked``. None if there is no checkpoint.

    Raises:
        ValueError: If there are some, and none can be used; the message says why of one of them.
    """
    found, refused = [], []
    for path in dict.fromkeys(path for root in roots for path in checkpoints_in(root)):
        try:
            progress = read_progress(path)
            if to_go_on and not progress.resumable:
                raise ValueError(f"{path} holds weights only, and no run can go on from it")
            found.append(progress)
        except FileNotFoundError:
            continue  # its run may have replaced it meanwhile
        except ValueError as error:
            refused.append(_passed_over(error, asked))
    found.sort(key=lambda each: (each.epochs, each.global_step, each.written, str(each.path)), reverse=True)
    for index, best in enumerate(found):
        try:
            check(best.path)
        except ValueError as error:
            refused.append(_passed_over(error, asked))
        else:
            _say(best, found[index + 1 :], asked)
            return best
    if refused:
        raise ValueError(f"ckpt_path {asked!r} needs a checkpoint that can be used, but {refused[0]}")
    return None


def _epochs(checkpoint: dict[str, Any]) -> Any:
    """GiGPO's own count, which is right at any moment; Lightning's where another module was trained."""
    kept = checkpoint.get("gigpo")
    if isinstance(kept, dict):
        return kept["iteration"]
    if "loops" in checkpoint:
        return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return checkpoint["epoch"]


def _passed_over(error: ValueError, asked: str) -> str:
    """Say that a checkpoint is passed over; why."""
    reason = _first_line(error)
    _logger.warning("ckpt_path %r passes over a checkpoint: %s", asked, reason)
    return reason


def _say(best: Progress, others: Sequence[Progress], asked: str) -> None:
    """Name the one that is taken and, where it is not the only one, why."""
    reason = ""
    equals = [each for each in others if (each.epochs, each.global_step) == (best.epochs, best.global_step)]
    elsewhere = [each for each in equals if each.path.parent != best.path.parent]
    if elsewhere:
        named = ", ".join(str(each.path) for each in elsewhere[:_SAID]) + (", ..." if elsewhere[_SAID:] else "")
        rule = "its file is the newest" if best.written != elsewhere[0].written else "its name is the last of them"
        reason = f"; as far had come {named}, but {rule}"
    elif behind := [each for each in others if each.path.parent != best.path.parent]:
        reason = f"; the next furthest is {behind[0]}"
    _logger.info("ckpt_path %r is %s%s", asked, best, reason)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
