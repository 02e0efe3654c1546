"""What a run would do, said before any of it is done."""

from typing import Any

from gigpo_lightning.rollout.tasks import check_share


def plan(trainer: Any, module: Any, data: Any, accelerator: Any = None, strategy: Any = None) -> list[str]:
    """Say how a run's work is dealt out over its ranks; nothing is loaded, played or started.

    Args:
        trainer: Lightning's, made and not begun.
        module: The LightningModule.
        data: The DataModule.
        accelerator: What was asked for, if the machine that plans may not have it.
        strategy: The same.

    Raises:
        ValueError: If the ranks cannot share the work.
    """
    ranks = trainer.num_nodes * trainer.num_devices
    lines = [
        f"{type(module).__name__} on {type(data).__name__}, {trainer.max_epochs} epochs",
        f"{_count(ranks, 'rank')}: {_count(trainer.num_nodes, 'machine')} with {trainer.num_devices} each, "
        f"accelerator {accelerator or 'auto'}, strategy {_name(strategy or 'auto')}, precision {trainer.precision}",
    ]
    if hasattr(data, "group_size"):
        lines += _of_rollouts(data, ranks)
    return lines


def _of_rollouts(data: Any, ranks: int) -> list[str]:
    check_share(data.tasks_per_epoch, ranks)
    episodes = data.tasks_per_epoch * data.group_size
    least, more = divmod(data.tasks_per_epoch, ranks)
    share = f"{least} or {least + 1}" if more else f"{least}"
    steps = episodes * data.max_steps
    size = data.minibatch_size or steps
    return [
        f"rollout: {data.tasks_per_epoch} groups of {data.group_size} episodes an epoch, of at most {data.max_steps} "
        f"steps; a rank plays {share} groups on its own {type(data.engine).__name__}, with "
        f"{_count(data.workers, 'worker process', 'worker processes')}",
        f"update: at most {-(-steps // size)} optimizer steps an epoch, each of at most {size} steps of all ranks, in "
        f"micro-batches of at most {data.micro_batch_tokens} tokens a rank",
        f"evaluation on {', '.join(data.held_out_splits)}, dealt out over the ranks",
    ]


def _name(strategy: Any) -> str:
    return strategy if isinstance(strategy, str) else type(strategy).__name__


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
