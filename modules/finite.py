"""Finds tensors with numbers that are not finite."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@torch.no_grad()
def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor with a number that is not finite; empty if there is none.

    Each tensor is read once, for its smallest and its largest number, which show any that is not finite; a GPU is
    waited for once. Of a sharded tensor, this rank's share is looked at.
    """
    names, bounds = [], []
    for name, tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.numel() and local.is_floating_point() and not local.is_meta:
            names.append(name)
            bounds.append(torch.stack(local.aminmax()).float())
    if not bounds:
        return ""
    finite = torch.stack([each.to(bounds[0].device) for each in bounds]).isfinite().all(dim=1)
    return "" if finite.all() else names[int(finite.int().argmin())]
