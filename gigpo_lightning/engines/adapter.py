"""LoRA adapters on their way to an engine, in the format of PEFT's folders."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors.torch import save_file
from torch import Tensor

from gigpo_lightning.disk import room_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter: what PEFT writes to ``adapter_config.json`` and to ``adapter_model.safetensors``."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by."""
        rank = float(self.config["r"])
        return float(self.config["lora_alpha"]) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def save(self, folder: str | Path) -> None:
        """Write a folder that PEFT and vLLM load.

        Raises:
            FullDiskError: If there is no room for it.
        """
        folder = Path(folder)
        config = {
            name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in self.config.items()
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with room_for(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_config.json").write_text(json.dumps(config, default=str))
            save_file(tensors, folder / "adapter_model.safetensors")


@runtime_checkable
class LoadsAdapters(Protocol):
    """An engine that takes a LoRA adapter instead of the whole weights."""

    def load_adapter(self, adapter: Adapter, version: int) -> None:
        """Put an adapter in front of the weights that were loaded last, in place of any other.

        ``load_weights`` takes it away again.

        Raises:
            RuntimeError: If requests are under way, or the engine was not made for adapters.
        """
