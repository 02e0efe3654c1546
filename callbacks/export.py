"""The callback that writes the policy as a folder for Transformers and vLLM."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gigpo_lightning.disk import whole_folder
from gigpo_lightning.errors import check_count
from gigpo_lightning.policy_view import PolicyView

_logger = logging.getLogger(__name__)


@runtime_checkable
class _Policy(Protocol):
    """Can be written as a folder."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by its checkpoint's name."""

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the folder."""


class Export(Callback):
    """Writes the policy every n epochs and at the end, as a folder that ``transformers`` loads and vLLM serves.

    ``epoch_N`` holds the policy as the N-th epoch has left it: weights, configuration, generation settings and
    tokenizer. A folder of that name is whole: it is written beside, under a name with a dot, and then renamed.

    Args:
        every_n_epochs: Write after every n-th epoch.
        folder: Where to; a relative one lies in the run's folder.
        keep: Keep only so many of the folders that this run has written, the newest; default: all.

    Raises:
        ValueError: If a number is not positive; before the first epoch, if the module has no policy.
        FloatingPointError: Before a folder is written, if a weight is not finite.
        FullDiskError: If there is no room for a folder; the others are still there.
    """

    def __init__(self, every_n_epochs: int = 1, folder: str = "exports", keep: int | None = None) -> None:
        check_count("every_n_epochs", every_n_epochs)
        if keep is not None:
            check_count("keep", keep)
        self.every_n_epochs = every_n_epochs
        self.folder = folder
        self.keep = keep
        self._written: list[Path] = []
        self._due: int | None = None  # the epoch that is over and not written

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that has nothing to write; before the Trainer has built it, it must not be asked."""
        if not isinstance(getattr(pl_module, "policy", None), _Policy):
            raise ValueError(f"Export needs a module with a policy, got {type(pl_module).__name__}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the policy, if it is time."""
        self._due = trainer.current_epoch
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._export(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the last epoch has left, unless it is written."""
        if self._due is not None:
            self._export(trainer, pl_module, self._due)

    def _export(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Collect the weights, which every rank takes part in; one writes."""
        module, policy = cast("PolicyView", pl_module), cast("_Policy", pl_module.policy)
        module.check_finite_weights()
        folder = Path(trainer.log_dir or trainer.default_root_dir) / self.folder  # asking for log_dir takes every rank
        weights: dict[str, Tensor] = {}
        source = module if isinstance(module, PolicyView) else policy  # the module knows how it is sharded
        for name, tensor in source.named_weights():
            if trainer.is_global_zero:
                weights[name] = tensor.detach().cpu()
        self._due = None
        if not trainer.is_global_zero:
            return
        path = folder / f"epoch_{epoch}"  # there may be one of a run before this one
        with whole_folder(path) as unfinished:
            policy.save_pretrained(unfinished, weights)
        _logger.info("policy written to %s", path)
        self._written = [*(each for each in self._written if each != path), path]
        while self.keep is not None and len(self._written) > self.keep:
            _remove(self._written.pop(0))


def _remove(path: Path) -> None:
    """Remove a folder, which does not look whole any more from the start."""
    if path.exists():
        leaving = path.with_name(f".old_{path.name}")
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
        shutil.rmtree(leaving)
