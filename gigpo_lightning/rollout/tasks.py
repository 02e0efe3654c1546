"""Which tasks an epoch plays."""

from collections.abc import Sequence

import numpy as np

from gigpo_lightning.environments.base import Task, TaskPanel


def check_share(tasks_per_epoch: int, ranks: int) -> None:
    """Refuse more ranks than there are groups to be played.

    Raises:
        ValueError: If a rank would have none.
    """
    if tasks_per_epoch < ranks:
        raise ValueError(
            f"tasks_per_epoch must be >= {ranks}, the number of ranks (trainer.devices times trainer.num_nodes), got "
            f"{tasks_per_epoch}: each plays whole groups"
        )


def epoch_tasks(panel: TaskPanel, tasks_per_epoch: int, epoch: int, seed: int) -> Sequence[Task]:
    """Choose an epoch's tasks: the panel is shuffled anew for each pass over it, and dealt out epoch by epoch.

    A pure function of its arguments, so that a resumed run goes on where it stopped. What a pass has left over, less
    than an epoch's worth, is left out of that pass: no epoch plays a task twice.

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


def more_tasks(
    panel: TaskPanel, played: Sequence[Task], num_tasks: int, epoch: int, seed: int, rank: int = 0, ranks: int = 1
) -> Sequence[Task]:
    """Choose tasks for an epoch that has discarded some of its groups; no two ranks are given the same task.

    Returns:
        Tasks that the epoch has not played: ``num_tasks`` of them, or all that are left. A pure function of the
        arguments, as ``epoch_tasks``.
    """
    known = {task.task_id for task in played}
    order = np.random.default_rng((seed, epoch, len(panel))).permutation(len(panel))
    left = [panel.tasks[index] for index in order[rank::ranks] if panel.tasks[index].task_id not in known]
    return left[:num_tasks]
