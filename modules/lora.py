"""Policies that train LoRA adapters beside frozen weights."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gigpo_lightning.errors import ShapeUnknownError, check_count, check_range
from modules.policy import Policy, PolicySource, gathered
from modules.quantization import (
    Quantization,
    check_quantization,
    dequantized,
    quantize_linears,
    whole_shape,
    whole_weights,
)
from modules.sharded_policy import ShareableSource
from modules.stored_weights import StoredWeights

_NAME = "default"  # PEFT's own name for the only adapter
_SEED = 0


class AdaptedPolicy(Policy):
    """A policy with LoRA adapters in its linear layers (arXiv:2106.09685); nothing else of it is trained."""

    def __init__(self, policy: Policy, config: Any) -> None:
        super().__init__(policy.model, policy.tokenizer, policy.wanted_attention)
        self.adapter_config = config

    @property
    def adapted(self) -> "AdaptedPolicy":
        """Its weights and adapters apart."""
        return self

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that its checkpoint gives it, the adapters added to those that they adapt."""
        adapted = dict(self.adapted_layers())
        for name, weight in self.base_weights():
            layer = adapted.get(name.removesuffix(".weight"))
            merged = weight if layer is None else _delta(layer).to(weight.dtype).add_(weight)
            del weight  # or two weights would be whole while the next one is gathered
            yield name, merged
            del merged

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights`` and of ``base_weights``, in their order."""
        return {name: whole_shape(weight) for name, weight in self._base_shares()}

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that its checkpoint gives it, as if there were no adapters."""
        for name, weight in self._base_shares():
            yield name, dequantized(gathered(weight))

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The adapters, by the names that PEFT's folders give them."""
        return {
            f"base_model.model.{name}.{matrix}.weight": gathered(getattr(layer, matrix)[_NAME].weight)
            for name, layer in self.adapted_layers()
            for matrix in ("lora_A", "lora_B")
        }

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Compute as the policy did before it had learnt anything: what the KL divergence is taken to."""
        layers = [layer for _, layer in self.adapted_layers()]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def adapted_layers(self) -> Iterator[tuple[str, Any]]:
        """Each layer that has an adapter, by its name."""
        for name, module in self.model.named_modules():
            if hasattr(module, "lora_A"):
                yield name, module

    def _base_shares(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight beside the adapters, by the name that its checkpoint gives it, as this rank has it."""
        for name, weight in whole_weights(self.model):
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), weight


class LoraPolicy:
    """A policy of which only LoRA adapters are trained (arXiv:2106.09685), by PEFT.

    With a KL coefficient the reference is the policy without its adapters: there is no second copy. The engine gets the
    adapters added to the weights, or beside them with ``WeightSync(adapters=True)``. A checkpoint holds the adapters
    alone.

    Args:
        base: Where the policy comes from that the adapters are put in.
        rank: Rank of every adapter.
        alpha: Adapters are scaled by ``alpha / rank``.
        dropout: Share of an adapter's inputs that is dropped in training; with one, ratios on policy are not 1.
        targets: Names of the linear layers that are adapted; default: all but the output layer.
        quantization: Keep the weights of all linear layers but the output layer in four bits (QLoRA,
            arXiv:2305.14314), by bitsandbytes; the engine and exports get what they stand for. Default: as they are.

    Raises:
        ImportError: If PEFT is not installed, or bitsandbytes is needed and does not work here.
        ValueError: If a number is out of its range, or no layer has a target's name.
    """

    def __init__(
        self,
        base: PolicySource,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        check_count("rank", rank)
        check_range("dropout", dropout, 0.0, 1.0)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be > 0 and finite, got {alpha}")
        if quantization is not None:
            check_quantization(quantization)
        self.base = base
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = None if targets is None else list(targets)
        self.quantization = quantization

    def skeleton(self) -> Policy:
        """The policy with its adapters and without its weights, on the meta device.

        Raises:
            ShapeUnknownError: If the policy's shape is not known.
        """
        make = getattr(self.base, "skeleton", None)
        if make is None:
            raise ShapeUnknownError(f"{type(self.base).__name__} has no skeleton")
        policy = make()
        with torch.device("meta"):
            return self._adapted(policy)

    def unloaded(self) -> tuple[Policy, StoredWeights] | None:
        """The policy with its adapters on the meta device, and its weights; None if they have to be read whole.

        Raises:
            ValueError: If they are to be quantized, and so cannot be shared out.
        """
        if self.quantization is not None:
            raise ValueError(
                f"quantization must be left out where weights are sharded (trainer.strategy fsdp2), got "
                f"{self.quantization!r}; with strategy ddp every rank has all of them in four bits"
            )
        unloaded = self.base.unloaded() if isinstance(self.base, ShareableSource) else None
        if unloaded is None:
            return None
        base, weights = unloaded
        with torch.device("meta"):
            policy = self._adapted(base)
        return policy, self._with_adapters(weights, policy)

    def build(self) -> Policy:
        """Make the policy and put fresh adapters in: they change nothing yet."""
        policy = self.base.build()
        if self.quantization is not None:
            quantize_linears(policy.model, policy.model.get_output_embeddings(), self.quantization)
        return self._adapted(policy)

    def _with_adapters(self, weights: StoredWeights, policy: AdaptedPolicy) -> StoredWeights:
        """The weights by their names beside adapters, and fresh adapters as PEFT makes them."""
        adapted = dict(policy.adapted_layers())
        for name, stored in weights:
            layer, _, kind = name.rpartition(".")
            yield (f"{layer}.base_layer.{kind}" if layer in adapted else name), stored
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for name, layer in adapted.items():
                a = nn.Linear(layer.in_features, self.rank, bias=False)
                nn.Linear(self.rank, layer.out_features, bias=False)  # PEFT draws numbers for it, then takes zeros
                nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
                yield f"{name}.lora_A.{_NAME}.weight", a.weight.detach()
                yield f"{name}.lora_B.{_NAME}.weight", torch.zeros(layer.out_features, self.rank)

    def _adapted(self, policy: Policy) -> AdaptedPolicy:
        try:
            import peft
        except ImportError as error:
            raise ImportError(
                f"LoraPolicy needs PEFT, which could not be imported ({error}). Install the extra 'lora'"
            ) from error
        head = policy.model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in policy.model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
        if self.targets is not None and not set(self.targets) <= linear:
            raise ValueError(f"targets must be among the linear layers {sorted(linear)}, got {self.targets}")
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank: any number will do
            lora_dropout=self.dropout,
            target_modules=sorted(self.targets or linear),
            task_type="CAUSAL_LM",
            base_model_name_or_path=_place(policy),
        )
        policy.model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)  # the same on every rank, and in every run
            peft.inject_adapter_in_model(config, policy.model, adapter_name=_NAME)
        return AdaptedPolicy(policy, config)


def _place(policy: Policy) -> str | None:
    """Where the weights beside the adapters are loaded from, for whoever loads these; None if they are nowhere."""
    name = str(policy.model.name_or_path)
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name or None


def _delta(layer: Any) -> Tensor:
    """What an adapter adds to its layer's weight."""
    a, b = (gathered(matrix[_NAME].weight) for matrix in (layer.lora_A, layer.lora_B))
    return (b @ a).mul_(layer.scaling[_NAME])
