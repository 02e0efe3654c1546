"""The largest moment of an update, against what torch's own memory tracker says of the same step."""

from dataclasses import replace

import pytest

from gigpo_lightning.memory import GIB, Training, known_shapes, moments, states, update_memory

SHAPES = known_shapes()
SMALL, LARGE = SHAPES["Qwen/Qwen2.5-1.5B-Instruct"], SHAPES["Qwen/Qwen2.5-7B-Instruct"]

# What torch.distributed._tools.mem_tracker.MemTracker says is alive beside the weights (gradients, activations,
# temporaries) at the largest moment of one forward and backward pass, in GiB, with gradient checkpointing under
# bfloat16 autocast; tokens are rows x length. It is a minibatch's first micro-batch: gradients are made on the way. No
# optimizer, no mask, nothing sharded. Qwen2ForCausalLM is made in FakeTensorMode, and token_logprobs called, by
#   python memsim.py 1.5b 77 850 16000 fp32w       (model, rows, length, tokens in replies, type of the weights)
# with torch 2.13 and transformers 5.19.
TRACKED = [
    ("1.5B", 9 * 850, "float32", 9.97),
    ("1.5B", 19 * 850, "float32", 10.70),
    ("1.5B", 38 * 850, "float32", 13.61),
    ("1.5B", 77 * 850, "float32", 24.12),
    ("3B", 14 * 4608, "bfloat16", 21.70),
    ("7B", 9 * 850, "bfloat16", 15.26),
    ("7B", 77 * 850, "bfloat16", 33.51),
]


@pytest.mark.parametrize(("model", "tokens", "weight_type", "tracked"), TRACKED)
def test_a_step_takes_what_torch_s_own_tracker_says_within_a_tenth(
    model: str, tokens: int, weight_type: str, tracked: float
) -> None:
    training = Training(weight_type=weight_type, micro_batch_tokens=tokens)
    step = [each for each in moments(SHAPES[f"Qwen/Qwen2.5-{model}-Instruct"], training) if each.name != "optimizer"]
    assert max(each.live + each.gradients for each in step) / GIB == pytest.approx(tracked, rel=0.1)


# The column "activations" of the table that said why nothing fits: memsim.py's for the longer micro-batches.
@pytest.mark.parametrize(
    ("model", "tokens", "strategy", "activations"),
    [
        ("1.5B", 38 * 850, "auto", 13.6),
        ("1.5B", 77 * 850, "auto", 24.1),
        ("3B", 14 * 4608, "fsdp2", 21.7),
        ("7B", 9 * 850, "fsdp2", 3.4),
        ("7B", 77 * 850, "fsdp2", 33.4),
    ],
)
def test_activations_are_those_of_the_tracker_within_a_tenth(
    model: str, tokens: int, strategy: str, activations: float
) -> None:
    training = Training(strategy=strategy, ranks=4, micro_batch_tokens=tokens)
    step = moments(SHAPES[f"Qwen/Qwen2.5-{model}-Instruct"], training)
    first = {each.name: each.live / GIB for each in step}
    largest = first["first block"] if tokens == 9 * 850 else first["last block"]  # beside the blocks' gradients or not
    assert largest == pytest.approx(activations, rel=0.1)


def test_states_are_twenty_bytes_a_weight_with_adamw_and_a_reference() -> None:
    kept = states(SMALL, Training())
    assert sum(kept.values()) * GIB == pytest.approx(20 * SMALL.num_parameters)
    assert states(SMALL, Training(optimizer_copies=0.0, reference=False)) == {
        "weights": pytest.approx(4 * SMALL.num_parameters / GIB),
        "gradients": pytest.approx(4 * SMALL.num_parameters / GIB),
        "optimizer": 0,
        "reference": 0,
    }


def test_sharding_divides_the_states_and_ddp_keeps_gradients_twice() -> None:
    alone, sharded = (sum(states(LARGE, Training(strategy=each, ranks=4)).values()) for each in ("auto", "fsdp2"))
    assert sharded == pytest.approx(alone / 4)
    replicated = states(LARGE, Training(strategy="ddp", ranks=4))
    assert replicated["gradients"] == pytest.approx(2 * 4 * LARGE.num_parameters / GIB)


def test_adapters_alone_have_gradients_and_moments() -> None:
    kept = states(SMALL, Training(lora_rank=16, reference=False))
    adapters = SMALL.adapters(16)
    assert kept["weights"] * GIB == pytest.approx(4 * (SMALL.num_parameters + adapters))
    assert kept["gradients"] * GIB == pytest.approx(4 * adapters)
    assert kept["optimizer"] * GIB == pytest.approx(8 * adapters)


def test_fsdp2_gathers_the_root_and_two_blocks_and_lays_gradients_out_in_float32() -> None:
    training = Training(strategy="fsdp2", ranks=4, micro_batch_tokens=65536)
    root, block = 2 * 152064 * 3584 + 3584, LARGE.block
    expected = 2 * (2 * root) + 2 * (2 * block) + (2 + 4) * block  # policy's and reference's; one block's gradient
    assert update_memory(LARGE, training)["gathered"] * GIB == expected
    assert update_memory(LARGE, replace(training, strategy="auto"))["gathered"] == 0


def test_without_checkpointing_every_block_s_activations_are_kept() -> None:
    tokens = 8192
    training = Training(micro_batch_tokens=tokens)
    less, more = (
        update_memory(SMALL, replace(training, gradient_checkpointing=each))["activations"] for each in (True, False)
    )
    wide = 2 * 4 * SMALL.intermediate_size * tokens / GIB  # gate, up, silu(gate) and their product, of a block
    assert more - less > 27 * wide


def test_a_few_tokens_leave_the_optimizer_s_step_the_largest_moment() -> None:
    parts = update_memory(SMALL, Training(micro_batch_tokens=256))
    cast = 2 * 28 * SMALL.block_matrices  # autocast keeps them to the end of the training step
    assert parts["activations"] * GIB == pytest.approx(cast + 4 * SMALL.num_parameters)
    fused = update_memory(SMALL, Training(micro_batch_tokens=256, optimizer_scratch=0.0))
    assert fused["activations"] < parts["activations"]


def test_more_tokens_never_take_less() -> None:
    sizes = [update_memory(SMALL, Training(micro_batch_tokens=1 << each))["activations"] for each in range(8, 18)]
    assert sizes == sorted(sizes)
