"""The sizes of a decoder that decide how much memory it takes; those of well-known models come with the project."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder of equal blocks: attention whose heads may share keys, a gated feed-forward layer, two RMSNorms.

    Qwen2, Qwen3, Llama, Mistral and their kin are of this form; the attributes go by their names in ``config.json``.

    ``head_norm`` says whether queries and keys are normalized, as Qwen3's are; a longest context of 0 is not known.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    head_norm: bool = False
    max_position_embeddings: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Take the sizes from a ``config.json``.

        Raises:
            ValueError: If a size is missing, or only some of the weights take part in a token (a mixture of experts).
        """
        if experts := [name for name in _EXPERTS if config.get(name)]:
            raise ValueError(f"a mixture of experts ({experts[0]} {config[experts[0]]}) cannot be summed up")
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        if missing := [name for name in names if not isinstance(config.get(name), int)]:
            raise ValueError(f"its config.json has no {' and no '.join(missing)}")
        heads, kind = config["num_attention_heads"], config.get("model_type")
        return cls(
            **{name: config[name] for name in names},
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            tie_word_embeddings=bool(config.get("tie_word_embeddings")),
            attention_bias=kind == "qwen2" or bool(config.get("attention_bias")),
            head_norm=kind == "qwen3",
            max_position_embeddings=config.get("max_position_embeddings") or 0,
        )

    @property
    def query_width(self) -> int:
        """Width of all queries of a token."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all keys of a token; its values are as wide."""
        return self.num_key_value_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Weights of the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def block_matrices(self) -> int:
        """Weights of a block's linear layers."""
        attention = 2 * self.hidden_size * (self.query_width + self.key_value_width)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def block(self) -> int:
        """All weights of a block."""
        biases = (self.query_width + 2 * self.key_value_width) * self.attention_bias
        return self.block_matrices + 2 * self.hidden_size + biases + 2 * self.head_dim * self.head_norm

    @property
    def root(self) -> int:
        """Weights outside the blocks: embedding, last norm and, if it is not tied, the output layer."""
        return self.embedding * (1 if self.tie_word_embeddings else 2) + self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All weights; tied ones once."""
        return self.num_hidden_layers * self.block + self.root

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters in every linear layer of the blocks."""
        attention = 2 * (self.hidden_size + self.query_width) + 2 * (self.hidden_size + self.key_value_width)
        return self.num_hidden_layers * rank * (attention + 3 * (self.hidden_size + self.intermediate_size))

    def cache_bytes(self, bytes_each: int) -> int:
        """Bytes of a key-value cache that a token takes."""
        return 2 * self.num_hidden_layers * self.key_value_width * bytes_each


def known_shapes() -> dict[str, ModelShape]:
    """The shapes that come with the project, by their names on the hub; facts of each model's ``config.json``."""
    text = files(__package__).joinpath("model_shapes.json").read_text(encoding="utf-8")
    return {name: ModelShape.from_config(config) for name, config in json.loads(text).items()}


def shape_of(model: str) -> ModelShape | None:
    """The shape of a model, without its weights and without a network; None if it is not known here.

    Args:
        model: A folder with a ``config.json``, or a name on the hub: of a model that comes with the project, or whose
            ``config.json`` is in the hub's cache on this disk.

    Raises:
        ValueError: If its ``config.json`` is not that of such a decoder.
    """
    if model in (known := known_shapes()):
        return known[model]
    path: Any = Path(model) / "config.json"
    if not path.is_file():
        try:
            path = try_to_load_from_cache(model, "config.json")
        except HFValidationError:
            return None
    if not isinstance(path, str | Path):
        return None
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no model's configuration")
    return ModelShape.from_config(config)
