"""What a learning-rate scheduler watches."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def watched(scheduler: Any, logged: Mapping[str, Tensor]) -> float | None:
    """The logged metric that ``lightning.pytorch.cli.ReduceLROnPlateau`` watches; None for other schedulers.

    Raises:
        ValueError: If nothing of that name has been logged.
    """
    monitor = getattr(scheduler, "monitor", None)
    if monitor is None:
        return None
    if monitor not in logged:
        raise ValueError(
            f"lr_scheduler.init_args.monitor must be a metric that every epoch logs, got {monitor!r}; this one has "
            f"logged {', '.join(sorted(logged))}"
        )
    return float(logged[monitor])
