"""What the numbers under ``trainer`` may be: Lightning takes some that mean nothing, and others end in a traceback."""

from collections.abc import Mapping
from typing import Any

from gigpo_lightning.errors import check_range

# Smallest value of each; nothing (null) leaves the default of those that may be empty.
_LEAST = {
    "num_nodes": 1,
    "min_epochs": 0,
    "min_steps": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "accumulate_grad_batches": 1,
    "reload_dataloaders_every_n_epochs": 0,
    "fast_dev_run": 0,
    "gradient_clip_val": 0,
}
_MOST = 1 << 14  # devices of a machine, and machines
_SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")


def check_trainer(given: Mapping[str, Any]) -> None:
    """Refuse settings of a Trainer that no run could have.

    Epochs without end are ``max_epochs: -1``. A training of nothing, by 0 epochs or 0 batches of each, is refused:
    ``gigpo validate`` evaluates.

    Raises:
        ValueError: If there is one; the message names it.
    """
    for name, least in _LEAST.items():
        if given.get(name) is not None and not (name == "fast_dev_run" and isinstance(given[name], bool)):
            check_range(f"trainer.{name}", given[name], least)
    for name in ("max_epochs", "max_steps"):
        value = given.get(name)
        if value is not None and value != -1 and value < 1:
            raise ValueError(f"trainer.{name} must be >= 1, or -1 for no end, got {value}")
    if given.get("num_nodes", 1) > _MOST:
        raise ValueError(f"trainer.num_nodes must be at most {_MOST}, got {given['num_nodes']}")
    _check_shares(given)
    if "\0" in str(given.get("default_root_dir")):
        raise ValueError(f"trainer.default_root_dir must be a path, got {given['default_root_dir']!r}")
    _check_devices(given.get("devices", "auto"), given.get("accelerator", "auto"))


def explain_trainer(error: BaseException, given: Mapping[str, Any]) -> str:
    """What is to be set where a Trainer cannot be made for this machine; empty if that is not the reason."""
    said = " ".join(str(error).split())
    if "`fsdp`" in said and "GPU" in said:
        return "trainer.strategy 'fsdp' needs GPUs; on CPUs use 'fsdp2', which shards there as well as on GPUs"
    if "No supported gpu backend" in said or "can not run on your system" in said:
        return (
            f"trainer.accelerator must be one that this machine has, got {given.get('accelerator')!r}: "
            f"{said.rstrip('!.')}. On a CPU: --trainer.accelerator cpu --trainer.precision 32-true; what else differs "
            'is in docs/configuration.md, under "On a CPU, on a GPU"'
        )
    return ""


def _check_shares(given: Mapping[str, Any]) -> None:
    """Refuse shares of an epoch's batches that are none."""
    for name in _SHARES:
        value = given.get(name)
        if isinstance(value, float):
            check_range(f"trainer.{name}", value, 0.0, 1.0, why="a share; a number of batches has no point")
        elif value is not None:
            check_range(f"trainer.{name}", value)
    if given.get("limit_train_batches") == 0:
        raise ValueError("trainer.limit_train_batches must be > 0, got 0: a run would train on nothing")
    interval = given.get("val_check_interval")
    if isinstance(interval, float):
        check_range("trainer.val_check_interval", interval, 1e-9, 1.0, why="a share of the epoch's batches")
    elif isinstance(interval, int):
        check_range("trainer.val_check_interval", interval, 1)


def _check_devices(devices: Any, accelerator: Any) -> None:
    """Refuse devices that are no number and no list of different ones."""
    if devices == "auto":
        return
    rule = f"trainer.devices must be {{}}, got {devices!r}"
    if isinstance(devices, str) and devices.strip("-").isdecimal():
        devices = int(devices)
    if accelerator == "cpu" and (not isinstance(devices, int) or devices < 1):
        raise ValueError(rule.format("a number >= 1 with trainer.accelerator 'cpu', or auto"))
    if isinstance(devices, int):
        if devices > _MOST:
            raise ValueError(rule.format(f"at most {_MOST}"))
        if devices < 1 and devices != -1:
            raise ValueError(rule.format("a number >= 1, -1 for all, a list of indices, or auto"))
        return
    indices = [each.strip() for each in devices.split(",") if each.strip()] if isinstance(devices, str) else devices
    if not isinstance(indices, list | tuple) or not indices or not all(str(each).isdecimal() for each in indices):
        raise ValueError(rule.format("a number >= 1, -1 for all, a list of indices >= 0, or auto"))
    if len({int(each) for each in indices}) < len(indices):
        raise ValueError(rule.format("a list that names each index once"))
