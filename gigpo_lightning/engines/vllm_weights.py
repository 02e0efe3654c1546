"""What a vLLM worker shows of its weights: where each checkpoint tensor lies in its model, and its checksums.

Runs inside vLLM: in the trainer's process, or in the workers of a server, which ``gigpo-server`` gives the extension.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gigpo_lightning.engines.weight_proof import (
    Checksums,
    Piece,
    Shapes,
    as_multiplied,
    dtype_name,
    plane,
    sampled_columns,
    show,
    to_json,
)

EXTENSION = "gigpo_lightning.engines.vllm_weights.WorkerExtension"
METHOD = "gigpo_show_weights"
_PEFT = "base_model.model."

Held = tuple[Piece, Callable[[], Tensor]]


class WorkerExtension:
    """A method that vLLM adds to a server's workers."""

    def gigpo_show_weights(self, shapes: Shapes, seed: int | None, adapter: int | None) -> list[dict[str, Any]]:
        """As ``show_weights``, in JSON's types."""
        return to_json(show_weights(self, shapes, seed, adapter))


def show_weights(worker: Any, shapes: Shapes, seed: int | None, adapter: int | None = None) -> Checksums:
    """What a worker holds of some tensors.

    The tensors' whole shapes go by their checkpoint's names, or by those of PEFT for the adapter with vLLM's number.
    """
    layers = _Layers(worker.model_runner.get_model(), seed or 0)
    slot = None if adapter is None else _slot(worker.model_runner, adapter)
    held: list[Held] = []
    for name, shape in shapes.items():
        held += layers.adapter(name, shape, slot) if name.startswith(_PEFT) else layers.weight(name)
    with torch.no_grad():
        return show(held, seed)


def _slot(runner: Any, adapter: int) -> int | None:
    """Where vLLM keeps an adapter in its stacks; None if it does not."""
    slots = runner.lora_manager._adapter_manager.lora_index_to_id
    return slots.index(adapter) if adapter in slots else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a checkpoint tensor lies in a layer.

    Attributes:
        module: The layer's module; with adapters, vLLM's wrapper of it.
        layer: The layer itself.
        offset: Its first row there.
        index: Which of the fused tensors it is.
        rows: As of ``Piece``.
        columns: As of ``Piece``, of the layer's inputs; None if all.
    """

    module: Any
    layer: Any
    offset: int
    index: int
    rows: tuple[int, int]
    columns: tuple[int, int] | None


class _Layers:
    """Layers of vLLM's model, and which checkpoint tensors are in them; ``seed`` chooses the columns of packed ones."""

    def __init__(self, model: torch.nn.Module, seed: int) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        packed: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
        self._fused = {part: (fused, at) for fused, parts in packed.items() for at, part in enumerate(parts)}
        self._seed = seed
        self._product: tuple[Any, Tensor] | None = None  # of the layer that was read last: it may hold three tensors

    def weight(self, name: str) -> list[Held]:
        """The pieces of a checkpoint's tensor that are here: none, one, or one for each form it is kept in."""
        path, _, attribute = name.rpartition(".")
        place = self._place(path)
        tensor = getattr(place.layer, attribute, None) if place is not None else None
        if place is None or not isinstance(tensor, Tensor) or tensor.dtype.itemsize < 2:
            return []
        loaded = dtype_name(getattr(place.layer, "params_dtype", None) or tensor.dtype)
        piece = Piece(name=name, rows=place.rows, columns=(0, 1), dtype=loaded, held=dtype_name(tensor.dtype))
        if attribute != "weight":
            return [(piece, lambda: _rows(tensor, place))]
        forms: list[Held] = []
        if tensor.numel():
            width = plane(tensor).shape[1]
            start = place.columns[0] if place.columns else 0
            forms.append((replace(piece, columns=(start, start + width)), lambda: _rows(tensor, place)))
        if hasattr(place.layer, "cpu_linear"):
            columns = place.columns or (0, _inputs(place.layer))
            packed = replace(piece, columns=columns, packed=True, held=piece.dtype)
            forms.append((packed, lambda: self._multiplied(place, columns)))
        return forms

    def adapter(self, name: str, shape: Any, slot: int | None) -> list[Held]:
        """The piece of an adapter's matrix that is here; none if it is not loaded."""
        path, _, matrix = name.removeprefix(_PEFT).removesuffix(".weight").rpartition(".")
        place = self._place(path)
        if place is None or slot is None or not hasattr(place.module, "lora_a_stacked"):
            return []
        first = matrix == "lora_A"
        stack = (place.module.lora_a_stacked if first else place.module.lora_b_stacked)[place.index][slot, 0]
        rank = int(shape[0] if first else shape[1])
        rows, columns = ((0, rank), place.columns or (0, int(shape[1]))) if first else (place.rows, (0, rank))
        dtype = dtype_name(stack.dtype)
        piece = Piece(name=name, rows=rows, columns=columns, dtype=dtype, held=dtype, scaled=not first)
        return [(piece, lambda: stack[: rows[1] - rows[0], : columns[1] - columns[0]])]

    def _place(self, path: str) -> _Place | None:
        parent, _, leaf = path.rpartition(".")
        fused, index = self._fused.get(leaf, (leaf, 0))
        module = self._modules.get(f"{parent}.{fused}" if parent else fused)
        if module is None:
            return None
        layer: Any = module
        while hasattr(layer, "base_layer"):
            layer = layer.base_layer
        from vllm.model_executor.layers import linear
        from vllm.model_executor.layers import vocab_parallel_embedding as vocabulary

        columns, offset = None, 0
        if isinstance(layer, vocabulary.VocabParallelEmbedding):
            shard = layer.shard_indices
            rows = (shard.org_vocab_start_index, shard.org_vocab_end_index)
        elif isinstance(layer, linear.ColumnParallelLinear):
            sizes = layer.output_partition_sizes
            if fused == leaf and len(sizes) > 1:  # fused in the checkpoint, too
                if layer.tp_size > 1:
                    return None
                sizes = [sum(sizes)]
            shared = getattr(layer, "num_kv_head_replicas", 1) if index else 1  # keys and values of several devices
            first = layer.tp_rank // shared * sizes[index]
            rows, offset = (first, first + sizes[index]), sum(sizes[:index])
        elif isinstance(layer, linear.RowParallelLinear):
            rows = (0, layer.output_size)
            width = layer.input_size_per_partition
            columns = (layer.tp_rank * width, (layer.tp_rank + 1) * width)
        elif isinstance(layer, linear.LinearBase):
            rows = (0, layer.output_size)
        else:
            weights = [each for each in layer.parameters(recurse=False)]
            rows = (0, int(weights[0].shape[0]) if weights else 0)
        return _Place(module=module, layer=layer, offset=offset, index=index, rows=rows, columns=columns)

    def _multiplied(self, place: _Place, columns: tuple[int, int]) -> Tensor:
        """Sampled columns of a packed weight: the layer's products with unit vectors."""
        layer = place.layer
        if self._product is None or self._product[0] is not layer:
            width = columns[1] - columns[0]
            sampled = sampled_columns(width, self._seed)
            units = torch.zeros(len(sampled), width, dtype=getattr(layer, "params_dtype", None))
            units[torch.arange(len(sampled)), torch.tensor(sampled)] = 1
            self._product = layer, as_multiplied(layer.quant_method.apply(layer, units, None)).T
        return _rows(self._product[1], place)


def _inputs(layer: Any) -> int:
    """Width of a layer's inputs."""
    for name in ("input_size_per_partition", "embedding_dim", "input_size"):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return 0


def _rows(values: Tensor, place: _Place) -> Tensor:
    """A tensor's own rows of what it is fused with."""
    return plane(values)[place.offset : place.offset + place.rows[1] - place.rows[0]]
