"""Shapes of models, how much is measured of each, and what a forward pass of them costs."""

from dataclasses import dataclass
from typing import Any

_QWEN2 = {"kind": "Qwen2", "vocab_size": 151_936, "tie_word_embeddings": True}


def _shape(width: int, intermediate: int, layers: int, heads: int, kv_heads: int, **others: Any) -> dict[str, Any]:
    """The arguments of a Transformers config."""
    return _QWEN2 | {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


SHAPES: dict[str, dict[str, Any]] = {  # from each model's config.json
    "qwen2.5-0.5b": _shape(896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": _shape(1536, 8960, 28, 12, 2),
    "qwen2.5-3b": _shape(2048, 11_008, 36, 16, 2),
    "qwen2.5-7b": _shape(3584, 18_944, 28, 28, 4, vocab_size=152_064, tie_word_embeddings=False),
    "smollm2-135m": _shape(576, 1536, 30, 9, 3, kind="Llama", vocab_size=49_152),
    "tiny": _shape(64, 128, 2, 2, 2, vocab_size=1000),
}

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 operations a second, from the vendor's data."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is measured.

    Attributes:
        budgets: Tokens of a micro-batch, of the memory stage; ascending, as the last may be too much.
        budget: Tokens of a micro-batch, elsewhere.
        prompt: Mean tokens of a prompt.
        reply: Mean tokens of a reply.
        lengths: Tokens of a prompt with a reply, of the attention stage.
        attention_tokens: Tokens of all sequences of one measurement there.
        sequences: Replies that are written at the same time.
        written: Tokens of each.
        max_model_len: Of the engine.
        share: Of the device's memory that the engine may take.
        repeats: Updates or passes that are timed, after one that is not.
        naps: Times that the engine sleeps and wakes.
        probes: Sequences of 24 tokens that trainer and engine both score.
    """

    budgets: tuple[int, ...] = (8192, 16_384, 32_768, 65_536)
    budget: int = 32_768
    prompt: int = 700
    reply: int = 150
    lengths: tuple[int, ...] = (850, 1700, 2500, 5000)
    attention_tokens: int = 32_768
    sequences: int = 128
    written: int = 256
    max_model_len: int = 2560
    share: float = 0.3
    repeats: int = 3
    naps: int = 5
    probes: int = 44


WORK = {name: Work() for name in SHAPES} | {
    "qwen2.5-7b": Work(budgets=(2048, 4096, 8192), budget=4096, share=0.4),
    "tiny": Work(
        budgets=(256, 512),
        budget=256,
        prompt=40,
        reply=8,
        lengths=(48, 96),
        attention_tokens=400,
        sequences=4,
        written=6,
        max_model_len=128,
        repeats=1,
        naps=2,
        probes=4,
    ),
}


def forward_operations(shape: str, computed: float, replies: float, sum_of_squares: float = 0.0) -> float:
    """Operations of a forward pass's matrix products.

    Args:
        shape: Of the model.
        computed: Tokens that go through the blocks, shared prompts once.
        replies: Tokens of replies: only these need logits.
        sum_of_squares: Of the lengths of the sequences, for attention; 0 leaves it out.
    """
    size = SHAPES[shape]
    width, heads = size["hidden_size"], size["num_attention_heads"]
    kv = width // heads * size["num_key_value_heads"]
    block = 2 * width * width + 2 * width * kv + 3 * width * size["intermediate_size"]
    attention = size["num_hidden_layers"] * width * sum_of_squares  # half of both products: causal
    return 2.0 * (size["num_hidden_layers"] * block * computed + size["vocab_size"] * width * replies + attention)


def share_of_peak(operations_per_second: float, device: str) -> float | None:
    """How much of what the device could do is done; None for a device that is not in the table."""
    peak = next((most for name, most in PEAK.items() if name in device), None)
    return None if peak is None else operations_per_second / peak
