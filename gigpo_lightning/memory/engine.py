"""What an engine in the trainer's process takes of its device."""

from dataclasses import dataclass
from typing import Literal

from gigpo_lightning.memory.model_shape import ModelShape
from gigpo_lightning.memory.update import GIB, TYPE_BYTES

GRAPHS_GIB = 1.0
"""Assumed of vLLM's CUDA graphs, by default over batches of up to 512 requests; they stay while the engine sleeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What decides how much memory an engine takes.

    Attributes:
        kind: ``share``: takes a share of the device and fills it with its cache, as vLLM does on a GPU; ``fixed``: has
            a cache of a fixed size, as vLLM on a CPU; ``growing``: has a cache that grows with its replies.
        weight_type: Type of its weights.
        max_model_len: Longest prompt plus reply, in tokens; None for what the model allows.
        max_num_seqs: Replies that are written at the same time.
        max_num_batched_tokens: Tokens of one forward pass.
        share: Of the device's memory.
        cache_gib: Size of a fixed cache.
        graphs: Whether CUDA graphs are captured.
        allow_sleep: Whether it can give its memory up.
        max_lora_rank: Largest rank of an adapter beside the weights; 0 takes none.
    """

    kind: Literal["share", "fixed", "growing"]
    weight_type: str = "bfloat16"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 16384
    share: float = 0.0
    cache_gib: float = 0.0
    graphs: bool = True
    allow_sleep: bool = False
    max_lora_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """What it takes, in GiB.

    Attributes:
        weights: Its own copy, and room for an adapter.
        cache: Keys and values of the tokens that it has read; negative if the rest leaves no room for one.
        workspace: What a forward pass makes.
        graphs: CUDA graphs.
        wanted_cache: A cache that holds every reply which may be written at the same time, at its longest.
        replies: How many those are.
        least_cache: A cache of one.
    """

    weights: float
    cache: float
    workspace: float
    graphs: float
    wanted_cache: float
    replies: int
    least_cache: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.workspace + self.graphs

    @property
    def starts(self) -> bool:
        """Whether there is room for one reply."""
        return self.cache >= self.least_cache


def engine_memory(shape: ModelShape, engine: EngineSettings, episodes: int, device_gib: float) -> EngineMemory:
    """What an engine takes on each device.

    A forward pass makes, for each token, the feed-forward layer's three wide tensors and four of the residual stream's
    width; for each reply, three float32 numbers for each word of the vocabulary.
    """
    each = TYPE_BYTES[engine.weight_type]
    weights = (shape.num_parameters + shape.adapters(engine.max_lora_rank)) * each / GIB
    wide = each * (3 * shape.intermediate_size + 4 * shape.hidden_size)
    logits = 12 * engine.max_num_seqs * shape.vocab_size
    workspace = (engine.max_num_batched_tokens * wide + logits) / GIB
    graphs = GRAPHS_GIB if engine.graphs else 0.0
    longest = longest_reply(shape, engine)
    reply = longest * shape.cache_bytes(each) / GIB
    replies = min(engine.max_num_seqs, episodes)
    wanted = replies * reply
    caches = {
        "share": engine.share * device_gib - weights - workspace - graphs,
        "fixed": engine.cache_gib,
        "growing": wanted,
    }
    return EngineMemory(
        weights=weights,
        cache=caches[engine.kind],
        workspace=workspace,
        graphs=graphs,
        wanted_cache=wanted,
        replies=replies,
        least_cache=reply,
    )


def longest_reply(shape: ModelShape, engine: EngineSettings) -> int:
    """Tokens of the longest prompt and its reply."""
    return engine.max_model_len or shape.max_position_embeddings or 4096
