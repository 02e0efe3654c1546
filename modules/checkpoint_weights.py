"""The policy of a checkpoint, without a Trainer: in one process, on any machine."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from modules.checkpoint_folder import contents, open_folder, read_folder
from modules.checkpoint_io import read_checkpoint, rule
from modules.checkpoint_state import check_weights
from modules.gigpo import GiGPOModule
from modules.policy import Policy
from modules.policy_module import PolicyModule


def trained_policy(module: LightningModule, path: Path) -> Policy:
    """Make a module's policy with a checkpoint's weights; the module needs no Trainer.

    The reference of a KL term is left out, and flash attention, which a machine without GPUs does not have: neither is
    part of what was learnt.

    Args:
        module: Made as the checkpoint's run made it.
        path: A file, or a folder with a file a rank.

    Raises:
        ValueError: If the module has no policy, its policy cannot be made, or the checkpoint is not whole or another
            policy's.
        FloatingPointError: If a weight is not finite.
    """
    if not isinstance(module, PolicyModule):
        raise ValueError(
            f"model must be a module with a policy, such as modules.GiGPOModule, got {type(module).__name__}"
        )
    if isinstance(module, GiGPOModule):
        module.loss_settings = dataclasses.replace(module.loss_settings, kl_coefficient=0.0)
    _attend_without_gpu(module.policy_source)
    weights = read_weights(path)
    policy = module.policy
    check_weights(weights, module.state_dict(), f"ckpt_path {str(path)!r} must name a checkpoint")
    module.load_state_dict(weights, strict=False)  # of a policy with adapters it holds these alone
    module.check_finite_weights()
    return policy


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by the names that its module gives them, on the CPU.

    Raises:
        ValueError: If it is not whole, or something else wrote it.
    """
    if not path.is_dir():
        weights: dict[str, Tensor] = read_checkpoint(path).get("state_dict", {})
    else:
        _, metadata = open_folder(path)
        weights = {
            name: torch.empty_like(each, device="cpu") for name, each in contents(path, metadata)["state_dict"].items()
        }
        read_folder(path, {"state_dict": weights}, metadata)
    if not weights:
        raise ValueError(f"{rule(path)}, which holds no weights")
    return weights


def _attend_without_gpu(source: Any) -> None:
    """Have a source, and what it is made of, use attention that every machine has."""
    while source is not None:
        if str(getattr(source, "attention", "")).startswith("flash"):
            source.attention = "sdpa"
        source = getattr(source, "base", None)
