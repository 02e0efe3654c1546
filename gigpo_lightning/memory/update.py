"""What an update takes of a device's memory: the weights and what belongs to them, and the largest moment of a step.

Every term is a tensor that is alive at a moment, counted from the code that makes it: Transformers' blocks and RMSNorm
(``modeling_qwen2.py``), ``modules/token_logprobs.py``, torch's autocast, checkpointing, FSDP2 and AdamW. Nothing is
fitted. ``tests/memory/test_update.py`` compares it with what torch's own memory tracker says of the same step.

Symbols: N = tokens of a micro-batch (rows times longest row), H = width of the residual stream, I = of the feed-forward
layer, Q, K = of queries and of keys, V = vocabulary. Sizes are in bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gigpo_lightning.memory.model_shape import ModelShape

GIB = 1 << 30
TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
Strategy = Literal["auto", "ddp", "fsdp2", "fsdp"]
_CHUNK = 1 << 25  # logits that token_logprobs makes at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a policy is trained, as far as its memory goes.

    Attributes:
        strategy: ``auto`` on one device; ``ddp``, ``fsdp2`` or ``fsdp`` on one or several.
        ranks: Devices of all machines together.
        precision: ``trainer.precision``.
        weight_type: Type of the policy's weights.
        optimizer_copies: Numbers that the optimizer keeps for each weight: 2 for AdamW, 0 for SGD.
        optimizer_scratch: Numbers that its step makes for each weight: 1 for torch's AdamW on a GPU, which by default
            goes over all weights at once (``foreach``); of sharded ``fsdp2`` weights it takes one after the other.
        reference: Whether a frozen reference is kept.
        gradient_checkpointing: Whether a block's activations are computed again in the backward pass.
        micro_batch_tokens: Rows times longest row of a micro-batch.
        mask_length: Longest row, where attention is given a mask of its square; 0 without one.
        repeats_heads: Whether attention is given shared heads once for each query head, as ``flex_repeats_heads`` says.
        lora_rank: Rank of the adapters; 0 trains all weights.
        reshard: Whether ``fsdp2`` gives a block's weights back after the forward pass.
        offload: Whether ``fsdp2`` keeps its shares on the host.
    """

    strategy: Strategy = "auto"
    ranks: int = 1
    precision: str = "bf16-mixed"
    weight_type: str = "float32"
    optimizer_copies: float = 2.0
    optimizer_scratch: float = 1.0
    reference: bool = True
    gradient_checkpointing: bool = True
    micro_batch_tokens: int = 16384
    mask_length: int = 0
    repeats_heads: bool = False
    lora_rank: int = 0
    reshard: bool = True
    offload: bool = False

    @property
    def sharded(self) -> bool:
        """Whether a rank holds only its share of the weights."""
        return self.strategy in ("fsdp2", "fsdp")

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight."""
        return TYPE_BYTES[self.weight_type]

    @property
    def compute_bytes(self) -> int:
        """Bytes of what linear layers compute with."""
        return 2 if self.precision == "bf16-mixed" else self.weight_bytes

    @property
    def autocast(self) -> bool:
        """Whether weights are cast for each product, so that the residual stream keeps their type.

        FSDP instead gathers blocks in the short type, and gives them inputs of it.
        """
        return not self.sharded and self.compute_bytes < self.weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment of a step at which much is alive.

    Attributes:
        name: What happens.
        live: Bytes of activations and of what is computed from them.
        gathered: Bytes that FSDP has gathered, or laid out for the reduction of gradients.
        gradients: Of a first micro-batch, bytes of the gradients that are there by then.
    """

    name: str
    live: int
    gathered: int = 0
    gradients: int = 0


def states(shape: ModelShape, training: Training) -> dict[str, float]:
    """GiB of what stays from step to step on each device: weights, gradients, optimizer, reference.

    Gradients stay between updates: they are freed when the next begins. ``ddp`` keeps them twice, as each parameter's
    and in the buckets that it sends.
    """
    adapters = shape.adapters(training.lora_rank) if training.lora_rank else 0
    trained = adapters or shape.num_parameters
    share = 0.0 if training.offload else training.weight_bytes / (training.ranks if training.sharded else 1) / GIB
    return {
        "weights": (shape.num_parameters + adapters) * share,
        "gradients": trained * share * (2 if training.strategy == "ddp" else 1),
        "optimizer": trained * share * training.optimizer_copies,
        "reference": shape.num_parameters * share if training.reference else 0.0,
    }


def update_memory(shape: ModelShape, training: Training) -> dict[str, float]:
    """GiB of each part on each device at the largest moment of an update; together what torch has allocated then.

    Returns:
        ``weights``, ``gradients``, ``optimizer``, ``reference``, and of what lives only during the step ``activations``
        (with what autocast has cast, and gradients on their way) and ``gathered`` (by FSDP).
    """
    largest = max(moments(shape, training), key=lambda moment: moment.live + moment.gathered)
    return states(shape, training) | {"activations": largest.live / GIB, "gathered": largest.gathered / GIB}


def moments(shape: ModelShape, training: Training) -> Sequence[Moment]:
    """The moments of a step that may be its largest."""
    tokens, layers = training.micro_batch_tokens, shape.num_hidden_layers
    weight = training.weight_bytes
    stream = tokens * shape.hidden_size * (weight if training.autocast else training.compute_bytes)
    saved, peak = _block(shape, training)
    gathered, cached = _gathered(shape, training), _cached(shape, training)
    waiting = _waiting(shape, training)
    trained = 0 if training.lora_rank else weight
    kept = stream if training.gradient_checkpointing else stream + saved
    # A block's gradient, of its output and, in the type of its products, of what it adds to the stream.
    flowing = stream + tokens * shape.hidden_size * training.compute_bytes
    block = peak + flowing + waiting + cached
    mask = _mask(training)
    logits, embedding = _logits(shape, training), shape.embedding * trained
    return (
        Moment(name="logits", live=layers * kept + 2 * stream + logits + cached + mask, gathered=gathered.root),
        Moment(
            name="last block",
            live=layers * kept + block - (kept - stream) + mask,
            gathered=gathered.block,
            gradients=0 if shape.tie_word_embeddings else embedding,
        ),
        Moment(
            name="first block",
            live=kept + block - (kept - stream) + mask,
            gathered=gathered.block,
            gradients=((layers - 1) * shape.block) * trained + (0 if shape.tie_word_embeddings else embedding),
        ),
        Moment(
            name="embedding",
            live=2 * stream + cached + waiting + embedding * (not training.sharded),
            gathered=gathered.end,
            gradients=(shape.num_parameters - shape.embedding) * trained,
        ),
        Moment(name="optimizer", live=cached + _scratch(shape, training), gradients=shape.num_parameters * trained),
    )


def played(shape: ModelShape, training: Training, scored: bool = False) -> float:
    """GiB that the trainer takes beside its states while it plays: to load the engine's weights, and to score a batch.

    Weights are gathered one at a time, the largest whole and cast; by Lightning's ``fsdp`` all at once, the reference's
    with them. What FSDP has gathered of the reference outside its blocks stays.

    ``scored`` says whether the trainer scores every step itself before it learns from it (``importance_correction``).
    """
    rest, whole = 0, shape.embedding * 2
    if training.sharded:
        rest = training.compute_bytes * shape.root if training.reference else 0
        whole += shape.embedding * training.weight_bytes
    if training.strategy == "fsdp":
        whole = shape.num_parameters * training.weight_bytes * (2 if training.reference else 1)
    scoring = 0
    if scored:
        # Of a block: three wide tensors, the stream, what is added to it, and its norm in both types.
        stream = training.weight_bytes if training.autocast else training.compute_bytes
        width = 3 * training.compute_bytes * shape.intermediate_size + 4 * stream * shape.hidden_size
        scoring = training.micro_batch_tokens * width + 12 * _CHUNK + _cached(shape, training) + _mask(training)
        scoring += _gathered(shape, training).root
    return max(rest + whole, scoring) / GIB


def _block(shape: ModelShape, training: Training) -> tuple[int, int]:
    """Bytes of what a block saves for its backward pass beside its input, and of the most that is alive in that pass.

    The most is alive when the feed-forward layer's product has been differentiated: gate, up, silu(gate) and the
    gradients of three I-wide tensors, where four were saved.
    """
    compute, hidden, inner = training.compute_bytes, shape.hidden_size, shape.intermediate_size
    query, key = shape.query_width, shape.key_value_width
    attention = compute * 2 * (query + key)  # queries, keys, values, and what attention gives
    if training.mask_length or training.repeats_heads:
        attention += compute * 2 * (query - key)  # with a mask Transformers repeats shared heads
    if training.autocast:
        # Norms are in the stream's type and save input and normalized; each linear layer casts its own input.
        norms = 4 * hidden + 2 * 4 * hidden + compute * 5 * hidden
    elif compute == 4:
        norms = 4 * hidden + 2 * 4 * hidden + 2 * 4 * hidden
    else:
        norms = 2 * (4 + 2 * compute) * hidden  # input in float32, normalized, and times the norm's weight
    if shape.head_norm:
        attention += (4 + compute) * (query + key) if compute < 4 else 8 * (query + key)
    log_sums = 4 * shape.num_attention_heads
    tokens = training.micro_batch_tokens
    saved = tokens * (norms + attention + log_sums + compute * 4 * inner)
    peak = tokens * (norms + attention + log_sums + compute * 6 * inner)
    if training.lora_rank:
        saved += tokens * compute * 2 * training.lora_rank * 7
        if training.autocast:  # frozen weights are cast anew each time, and kept for the inputs' gradients
            saved += compute * shape.block_matrices
            peak += compute * shape.block_matrices
            peak += (
                tokens * compute * inner
            )  # PEFT gives adapters the widest input in float32: for a moment it is there
    return saved, peak


def flex_repeats_heads(shape: ModelShape) -> bool:
    """Whether Transformers gives FlexAttention shared heads repeated: unless query heads are a power of two."""
    return shape.num_attention_heads & (shape.num_attention_heads - 1) != 0


def _cached(shape: ModelShape, training: Training) -> int:
    """Bytes of the weights that autocast has cast and keeps until the step is over: of those that are trained.

    The step of the optimizer is inside of it. Of frozen weights it keeps none.
    """
    if not training.autocast or training.lora_rank:
        return 0
    return training.compute_bytes * shape.num_hidden_layers * shape.block_matrices


def _waiting(shape: ModelShape, training: Training) -> int:
    """Bytes of the output layer's gradient while the blocks' are computed.

    A tied one waits for the embedding's. Under FSDP it waits unsharded for the whole unit that it is in.
    """
    if training.lora_rank:
        return 0
    if training.sharded:
        return shape.embedding * training.compute_bytes
    return shape.embedding * training.weight_bytes if shape.tie_word_embeddings else 0


def _logits(shape: ModelShape, training: Training) -> int:
    """Bytes that ``token_logprobs`` takes beside the states: in its backward pass, every token being a reply's.

    Three chunks of float32 logits, one in the products' type; the output layer's gradient in float32, a chunk's part
    of it, and its copy in the weights' type; the layer itself where it had to be cast; the states and their gradient.
    """
    compute, trained = training.compute_bytes, not training.lora_rank
    chunk = min(_CHUNK, training.micro_batch_tokens * shape.vocab_size)
    states = 2 * training.micro_batch_tokens * shape.hidden_size * compute
    weight = shape.embedding * (compute * training.autocast + trained * (4 + compute))
    return chunk * (3 * 4 + compute) + states + weight


def _mask(training: Training) -> int:
    """Bytes of a mask that keeps branches apart: a byte, and a bias of two that attention makes of it."""
    return training.micro_batch_tokens * training.mask_length * (1 + training.compute_bytes)


def _scratch(shape: ModelShape, training: Training) -> int:
    """Bytes that the optimizer's step makes: for all weights at once, or for the largest."""
    weight = training.weight_bytes
    if training.lora_rank:
        return round(training.optimizer_scratch * weight * shape.adapters(training.lora_rank))
    if training.strategy == "fsdp2":
        return 2 * weight * shape.embedding // training.ranks
    share = training.ranks if training.sharded else 1
    return round(training.optimizer_scratch * weight * shape.num_parameters) // share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathered:
    """Bytes of what FSDP has gathered: while a block is computed, while logits are, and at the backward pass's end."""

    block: int = 0
    root: int = 0
    end: int = 0


def _gathered(shape: ModelShape, training: Training) -> _Gathered:
    """What FSDP gathers in the products' type, and what it lays out for the reduction of gradients.

    The unit with embedding and output layer stays gathered from its forward pass to the end of its backward pass, and
    the reference's, which has none, from then on. Of the blocks two are there: one at work, the next on its way.
    ``fsdp2`` reduces gradients in float32, Lightning's ``fsdp`` in the short type.
    """
    if not training.sharded:
        return _Gathered()
    compute = training.compute_bytes
    reduced = 4 if training.strategy == "fsdp2" else compute
    root = compute * shape.root * (2 if training.reference else 1)
    blocks = compute * shape.block * (2 if training.reshard else shape.num_hidden_layers)
    trained = 0 if training.lora_rank else 1
    return _Gathered(
        block=root + blocks + trained * (compute + reduced) * shape.block,
        root=root + blocks,
        end=root + trained * ((compute + reduced) * shape.root - compute * shape.embedding),
    )
