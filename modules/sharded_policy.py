"""Policies whose weights are loaded in shares: at any time a rank holds only its shares and one whole tensor.

A model of 7 billion parameters is 28 GiB in float32. If each of eight ranks read it whole, and copied it for the
reference, it would take 450 GiB of the machine's memory before the first step.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gigpo_lightning.ranks import together
from modules.finite import first_not_finite
from modules.policy import Policy
from modules.stored_weights import StoredTensor, StoredWeights


@runtime_checkable
class ShareableSource(Protocol):
    """A source whose policy can be made on the ranks in shares."""

    def unloaded(self) -> tuple[Policy, StoredWeights] | None:
        """The policy on the meta device, in all but its weights as ``build`` makes it, and its weights, tied ones once.

        None if they have to be read whole.
        """


def share_out(source: ShareableSource, shard: Callable[[Policy], None], device: torch.device) -> Policy | None:
    """Make a policy in shares, without making it whole anywhere; all ranks have to do so together.

    ``shard`` shards a policy in place, on the meta device.

    Returns:
        The policy, or None if its weights have to be read whole.

    Raises:
        ValueError: If they cannot be read, or one is not finite.
    """
    unloaded = together(source.unloaded)
    if unloaded is None:
        return None
    policy, weights = unloaded
    shard(policy)
    _materialize(policy, device)
    together(lambda: _fill(policy, weights))
    return policy


def copy_shares(policy: Policy, second: Policy, device: torch.device) -> None:
    """Give ``second``, of the same make and sharded in the same way, a policy's weights, each rank its own shares."""
    _materialize(second, device)
    ours = _tensors(second)
    with torch.no_grad():
        for name, tensor in _tensors(policy).items():
            _local(ours[name]).copy_(_local(tensor))


def _materialize(policy: Policy, device: torch.device) -> None:
    """Give a policy on the meta device memory of its own; tied weights stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in policy.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                empty = torch.empty_like(weight, device=device)
                module._parameters[name] = made.setdefault(
                    id(weight), nn.Parameter(empty, requires_grad=weight.requires_grad)
                )
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
        if module._non_persistent_buffers_set:
            policy.model._init_weights(module)  # Transformers' own way: no file has them


def _fill(policy: Policy, weights: StoredWeights) -> None:
    """Copy this rank's share of every weight."""
    tensors = _tensors(policy)
    with torch.no_grad():
        for name, stored in weights:
            _local(tensors[name]).copy_(_rows(stored, tensors[name]))
    if name := first_not_finite(tensors.items()):  # a safetensors file has no checksum
        raise ValueError(f"model must be a checkpoint of finite weights, but {name} is not")


def _rows(stored: StoredTensor, weight: Tensor) -> Tensor:
    """What is stored of this rank's share of a weight; FSDP2 shards a weight's rows."""
    if not isinstance(weight, DTensor):
        return stored[:]
    shape, (first, *_) = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    return stored[first : first + shape[0]]


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _tensors(policy: Policy) -> dict[str, Tensor]:
    """Weights and buffers by their names, tied ones under each of theirs."""
    model = policy.model
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
