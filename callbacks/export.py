"""The callback that writes the policy as a folder for Transformers and vLLM."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.lightning_internals import epochs_done
from gigpo_lightning.disk import whole_folder
from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.errors import check_count
from gigpo_lightning.policy_view import AdaptedWeights, PolicyView

_logger = logging.getLogger(__name__)


@runtime_checkable
class Writable(Protocol):
    """A policy that can be written as a folder."""

    @property
    def adapted(self) -> AdaptedWeights | None:
        """Its weights and adapters apart, if it has adapters."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by its checkpoint's name."""

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the folder."""

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer's files alone."""


def write_policy(policy: Writable, path: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write a policy as a folder that is whole or not there, and say where it is.

    Args:
        policy: The policy; adapters are added to the weights that they adapt.
        path: The folder; one of that name is replaced.
        weights: What to write; default: the policy's ``named_weights``.

    Raises:
        FullDiskError: If there is no room for it.
    """
    with whole_folder(path) as unfinished:
        policy.save_pretrained(unfinished, weights)
    _logger.info("policy written to %s", path)


def write_adapter(policy: Writable, path: Path) -> None:
    """As ``write_policy``, but the adapters alone, in PEFT's format, with the tokenizer.

    Raises:
        ValueError: If the policy has no adapters.
        FullDiskError: If there is no room for it.
    """
    if policy.adapted is None:
        raise ValueError("adapter must be false for a policy without adapters: all of its weights were trained")
    config = policy.adapted.adapter_config.to_dict() | {"inference_mode": True}
    with whole_folder(path) as unfinished:
        policy.save_tokenizer(unfinished)
        Adapter(config=config, tensors=policy.adapted.adapter_tensors()).save(unfinished)
    _logger.info("adapter written to %s", path)


class Export(Callback):
    """Writes the policy every n epochs and at the end, as a folder that ``transformers`` loads and vLLM serves.

    ``epoch_N`` holds the policy as the N-th epoch has left it: weights, configuration, generation settings and
    tokenizer. A folder of that name is whole: it is written beside, under a name with a dot, and then renamed.
    A run that goes on from a checkpoint and has nothing left to train writes that checkpoint's policy;
    ``gigpo export`` does so without starting a run.

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
        self._begun = False  # whether this fit has trained anything

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that has nothing to write; before the Trainer has built it, it must not be asked."""
        if not isinstance(getattr(pl_module, "policy", None), Writable):
            raise ValueError(f"Export needs a module with a policy, got {type(pl_module).__name__}")
        self._begun = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that there is something to train."""
        self._begun = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the policy, if it is time."""
        self._due = trainer.current_epoch
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._export(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the last epoch has left, unless it is written."""
        if self._due is not None:
            self._export(trainer, pl_module, self._due)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what a checkpoint holds that had no epoch left to train: Lightning calls nothing else then."""
        if not self._begun and trainer.ckpt_path is not None and epochs_done(trainer):
            self._export(trainer, pl_module, epochs_done(trainer) - 1)

    def _export(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Collect the weights, which every rank takes part in; one writes."""
        module, policy = cast("PolicyView", pl_module), cast("Writable", pl_module.policy)
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
        write_policy(policy, path, weights)
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
