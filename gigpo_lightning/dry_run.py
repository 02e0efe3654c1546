"""What a run would do, said before any of it is done."""

from typing import Any

import psutil
import torch

from gigpo_lightning.errors import check_range
from gigpo_lightning.memory import GIB, GPU_80_GIB, MemoryReport, MemoryUnknownError, report, setup_of, unknown
from gigpo_lightning.rollout.tasks import check_share

_WIDEST = 1 << 20  # GiB


def engine_of(data: Any) -> Any:
    """What plays for a DataModule; None for one that plays nothing."""
    return getattr(getattr(data, "player", None), "engine", None)


def plan(trainer: Any, module: Any, data: Any, accelerator: Any = None, strategy: Any = None) -> list[str]:
    """Say how a run's work is dealt out over its ranks; nothing is loaded, played or started.

    Accelerator and strategy are those that were asked for: the machine that plans may not have them.

    Raises:
        ValueError: If the ranks cannot share the work.
    """
    ranks = trainer.num_nodes * trainer.num_devices
    lines = [
        f"{type(module).__name__} on {type(data).__name__}, {trainer.max_epochs} epochs",
        f"{_count(ranks, 'rank')}: {_count(trainer.num_nodes, 'machine')} with {trainer.num_devices} each, "
        f"accelerator {accelerator or 'auto'}, strategy {_name(strategy or 'auto')}, precision {trainer.precision}",
    ]
    player = getattr(data, "player", None)
    if player is None or not hasattr(data, "batching"):  # demonstrations, or stored episodes
        return lines
    check_share(player.tasks_per_epoch, ranks)
    least, more = divmod(player.tasks_per_epoch, ranks)
    steps = player.tasks_per_epoch * player.group_size * player.max_steps
    size = data.batching.minibatch_size or steps
    whole = data.batching.minibatch_by == "episodes" and size < steps
    share = f"about {size} steps of all ranks, in whole episodes" if whole else f"at most {size} steps of all ranks"
    return [
        *lines,
        f"rollout: {player.tasks_per_epoch} groups of {player.group_size} episodes an epoch, of at most "
        f"{player.max_steps} steps; a rank plays {f'{least} or {least + 1}' if more else least} groups on its own "
        f"{type(player.engine).__name__}, with {_count(player.workers, 'worker process', 'worker processes')}",
        f"update: at most {-(-steps // size)} optimizer steps an epoch, each of {share}, in micro-batches "
        f"of at most {data.batching.micro_batch_tokens} tokens a rank",
        f"evaluation on {', '.join(data.held_out_splits)}, dealt out over the ranks",
    ]


def plan_memory(
    trainer: Any,
    module: Any,
    data: Any,
    accelerator: Any = None,
    strategy: Any = None,
    *,
    policy: Any = None,
    device_gib: float | None = None,
) -> MemoryReport:
    """Say how much memory a run takes of each device; of a CPU, of each rank's part of the machine's.

    ``policy`` has no weights; None if it could not be made. Without ``device_gib`` a device is a GPU of this machine,
    if there is one, else one of 80 GB.

    Raises:
        ValueError: If ``device_gib`` is not above 0 and finite.
    """
    if device_gib is not None:
        check_range("device_gib", device_gib, 1e-3, _WIDEST)
    name = _name("auto" if accelerator is None else accelerator)
    on_gpu = torch.cuda.is_available() if name == "auto" else not name.lower().startswith("cpu")
    found, what = _device(on_gpu, trainer.num_devices) if device_gib is None else (device_gib, "--device_gib")
    try:
        setup = setup_of(trainer, module, data, strategy=strategy, policy=policy, on_gpu=on_gpu, device_gib=found)
    except MemoryUnknownError as error:
        return unknown(str(error), found)
    return report(setup, what)


def planned_devices(devices: Any) -> int:
    """How many devices a machine's are; without a look at it ``auto`` and -1 could be any number.

    Raises:
        ValueError: If ``devices`` does not say.
    """
    number = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
    if number < 1:
        raise ValueError(f"trainer.devices must be a number or a list for --dry_run without them, got {devices!r}")
    return number


def _device(on_gpu: bool, devices: int) -> tuple[float, str]:
    """GiB of a device, and how they are known."""
    if not on_gpu:
        return psutil.virtual_memory().total / GIB / devices, "a rank's part of this machine's memory"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return properties.total_memory / GIB, f"this machine's {properties.name}"
    return GPU_80_GIB, "taken for a GPU of 80 GB (--device_gib says otherwise)"


def _name(part: Any) -> str:
    return part if isinstance(part, str) else type(part).__name__


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
