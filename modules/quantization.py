"""Frozen linear layers in four bits, for LoRA adapters beside them (QLoRA, arXiv:2305.14314); by bitsandbytes."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Quantization = Literal["nf4", "fp4"]
"""Types of four bits: normal floats, whose values fit weights best, and plain ones."""


def check_quantization(kind: Quantization) -> None:
    """Refuse a machine that cannot quantize.

    Raises:
        ImportError: If bitsandbytes is not installed, or does not work here.
    """
    if find_spec("bitsandbytes") is None:
        raise ImportError(
            f"quantization {kind!r} needs bitsandbytes, which is not installed. Install the extra 'qlora', or leave "
            "quantization out: LoRA then trains beside whole weights"
        )
    try:
        _four_bits(torch.ones(2, 64), kind)
    except Exception as error:
        raise ImportError(
            f"quantization {kind!r} needs bitsandbytes, which does not work on this machine ({error}). Leave "
            "quantization out: LoRA then trains beside whole weights"
        ) from error


def quantize_linears(model: nn.Module, head: nn.Module | None, kind: Quantization) -> None:
    """Put layers of four bits in the place of a model's linear layers, all but the output layer."""
    from bitsandbytes.nn import Linear4bit

    for name, linear in list(model.named_modules()):
        if not isinstance(linear, nn.Linear) or linear is head:
            continue
        with torch.device("meta"):
            layer = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=linear.weight.dtype,
                quant_type=kind,
            )
        layer.weight = _four_bits(linear.weight.detach(), kind)
        layer.bias = linear.bias
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The entries of a model's ``state_dict``, quantized weights as what they stand for, without their statistics."""
    entries = model.state_dict(keep_vars=True)
    quantized = tuple(f"{name}." for name, weight in entries.items() if is_quantized(weight))
    for name, weight in entries.items():
        if not name.startswith(quantized):
            yield name, weight


def is_quantized(weight: Tensor) -> bool:
    """Whether a weight is kept in four bits."""
    return getattr(weight, "quant_state", None) is not None


def whole_shape(weight: Tensor) -> tuple[int, ...]:
    """The shape of the weight that a tensor stands for."""
    return tuple(cast("Any", weight).quant_state.shape if is_quantized(weight) else weight.shape)


def dequantized(weight: Tensor) -> Tensor:
    """What a quantized weight stands for, in the type that it had; any other as it is."""
    if not is_quantized(weight):
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return cast("Tensor", dequantize_4bit(weight.data, cast("Any", weight).quant_state))


def _four_bits(weight: Tensor, kind: Quantization) -> Any:
    """A weight in four bits; its device is kept."""
    from bitsandbytes.nn import Params4bit

    return Params4bit(weight, requires_grad=False, quant_type=kind).to(weight.device)
