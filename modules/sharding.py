"""What Lightning's own FSDP strategy (``--trainer.strategy fsdp``, on GPUs) wants of a policy; ``fsdp2`` shards itself.

Without FSDP around it, everything here does nothing: blocks stay as they are, weights are the policy's.
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

    Differs from ``fsdp2``, which gathers one at a time: here all are whole at once, on every rank.

    Args:
        policy: The policy.
        root: What the strategy has made of the module that the policy is in.
    """
    if not isinstance(root, FullyShardedDataParallel):
        yield from policy.named_weights()
        return
    with FullyShardedDataParallel.summon_full_params(root, writeback=False):
        for name, weight in policy.model.named_parameters(remove_duplicate=False):
            yield name.replace(PREFIX, ""), weight.detach()
