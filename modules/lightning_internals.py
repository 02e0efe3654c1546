"""What is used of Lightning that it does not document as its own; each use has a test that a new version would fail."""

from typing import Any, cast

from lightning.pytorch import Trainer


def epochs_done(trainer: Trainer) -> int:
    """Number of epochs that are over, and so the number of the one that is played and learnt from.

    ``Trainer.current_epoch`` is behind by one in a run that goes on from an epoch's end, until its first hook.
    """
    return int(cast("Any", trainer.fit_loop.epoch_progress.current).processed)
