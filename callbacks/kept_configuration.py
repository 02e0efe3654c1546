"""The command line's callback that keeps the run's configuration: in its folder, its checkpoints and its loggers."""

from functools import cached_property
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.hyperparameters import log_hyperparameters
from gigpo_lightning.errors import RunError
from gigpo_lightning.hyperparameters import flattened
from gigpo_lightning.last_checkpoint import CONFIGURATION
from gigpo_lightning.ranks import gather


class KeptConfiguration(SaveConfigCallback):
    """Writes ``config.yaml`` as Lightning does, puts the same text into every checkpoint, and has loggers show it."""

    ckpt_path: str | None = None
    """The checkpoint that this rank goes on from; each has looked for it alone."""

    _is_logged = False

    @cached_property
    def text(self) -> str:
        """The configuration as YAML; it does not change once a run has begun."""
        return str(self.parser.dump(self.config, skip_unset=False))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``.

        Raises:
            RunError: If the ranks would go on from several checkpoints, as one was written while they looked.
        """
        if len(paths := set(gather(self.ckpt_path))) > 1:
            raise RunError(
                f"all ranks must go on from one checkpoint, but they found {sorted(map(str, paths))}; begin again"
            )
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the configuration; nothing of the kind is read when weights are loaded."""
        checkpoint[CONFIGURATION] = self.text

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the configuration to the loggers, once in a run."""
        if trainer.is_global_zero and not self._is_logged:
            self._is_logged = True
            log_hyperparameters(trainer, flattened(yaml.safe_load(self.text)))

    on_validation_start = on_test_start = on_predict_start = on_fit_start
