"""Adapts a policy to Lightning's own FSDP strategy (``--trainer.strategy fsdp``, on GPUs). ``fsdp2`` needs none of it.

Without FSDP everything here does nothing: blocks stay as they are, and weights are the policy's.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import wrap

from modules.policy import Policy

PREFIX = "_fsdp_wrapped_module."


def wrap_blocks(policy: Policy) -> None:
    """Make each decoder block a unit of its own, if the strategy that is at work wraps modules."""
    blocks = set(policy.blocks)
    for name, module in list(policy.model.named_modules()):
        if module in blocks:
            parent, _, child = name.rpartition(".")
            setattr(policy.model.get_submodule(parent), child, wrap(module))


def named_weights(policy: Policy, root: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a policy by its checkpoint's name, gathered if it is sharded; all ranks have to ask together.

    Differs from ``fsdp2``, which gathers one at a time: here a unit is whole at once, which is a decoder block, or all
    that is in none.

    ``root`` is what the strategy has made of the module that the policy is in.
    """
    if not isinstance(root, FullyShardedDataParallel):
        yield from policy.named_weights()
        return
    blocks = {
        f"{name}.": module
        for name, module in policy.model.named_modules()
        if isinstance(module, FullyShardedDataParallel) and module is not root
    }
    with FullyShardedDataParallel.summon_full_params(root, recurse=False, writeback=False):
        for name, weight in policy.model.named_parameters(remove_duplicate=False):
            if not name.startswith(tuple(blocks)):
                yield name.replace(PREFIX, ""), weight.detach().clone()  # the unit's memory is given back after it
    for prefix, block in blocks.items():
        with FullyShardedDataParallel.summon_full_params(block, recurse=False, writeback=False):
            for name, weight in block.named_parameters(remove_duplicate=False):
                yield (prefix + name).replace(PREFIX, ""), weight.detach().clone()


def weight_shapes(policy: Policy, root: nn.Module | None) -> dict[str, tuple[int, ...]]:
    """The whole shape of each of ``named_weights``, in its order; ranks that FSDP has sharded have to ask together."""
    if not isinstance(root, FullyShardedDataParallel):
        return policy.weight_shapes()
    return {name: tuple(weight.shape) for name, weight in named_weights(policy, root)}  # outside a unit all are flat
