"""Which tasks an epoch plays."""

from collections.abc import Sequence

import numpy as np

from gigpo_lightning.environments.base import Task, TaskPanel


def epoch_tasks(panel: TaskPanel, tasks_per_epoch: int, epoch: int, seed: int) -> Sequence[Task]:
    """Choose an epoch's tasks: the panel is shuffled anew for each pass over it, and dealt out epoch by epoch.

    A pure function of its arguments, so that a resumed run goes on where it stopped. What a pass has left over, less
    than an epoch's worth, is left out of that pass: no epoch plays a task twice.

    Args:
        panel: The training tasks.
        tasks_per_epoch: Tasks of an epoch.
        epoch: Number of the epoch, from 0.
        seed: Of the passes' orders.

    Raises:
        ValueError: If ``tasks_per_epoch`` is more than the panel holds.
    """
    epochs_per_pass = len(panel) // tasks_per_epoch
    if epochs_per_pass == 0:
        raise ValueError(f"tasks_per_epoch must be <= the panel's {len(panel)} tasks, got {tasks_per_epoch}")
    number, position = divmod(epoch, epochs_per_pass)
    order = np.random.default_rng((seed, number)).permutation(len(panel))
    chosen = order[position * tasks_per_epoch : (position + 1) * tasks_per_epoch]
    return [panel.tasks[index] for index in chosen]
