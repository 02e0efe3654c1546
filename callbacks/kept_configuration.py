"""The command line's callback that keeps the run's configuration, in its folder and in its checkpoints."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from gigpo_lightning.errors import RunError
from gigpo_lightning.last_checkpoint import CONFIGURATION
from gigpo_lightning.ranks import gather


class KeptConfiguration(SaveConfigCallback):
    """Writes ``config.yaml`` as Lightning does, and puts the same text into every checkpoint to go on from."""

    ckpt_path: str | None = None
    """The checkpoint that this rank goes on from; each has looked for it alone."""

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
        checkpoint[CONFIGURATION] = str(self.parser.dump(self.config, skip_unset=False))
