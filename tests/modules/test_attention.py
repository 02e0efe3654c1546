"""Every attention says of token trees what it says of each sequence by itself, and gives their gradients."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from gigpo_lightning.token_trees import Pair, RowRules, plan_micro_batches, token_trees
from modules import Policy, attention, block_attention, tree_attention
from modules.attention import TOKEN_TREES, attends_to_everything, attention_of, block_mask, leave_out_cudnn
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer
from tests.devices import DEVICE

SIZES: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PLAIN = RowRules(shared=False)
WINDOWED = {"layer_types": ["full_attention", "sliding_attention"]}
HYBRID = {"layer_types": ["full_attention", "linear_attention"]}


def model_of(kind: str = "qwen2", **config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    made = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    model: PreTrainedModel = made[1](made[0](**SIZES, **config))
    return model


def policy_of(kind: str = "qwen2", wanted: str | None = None) -> Policy:
    return Policy(model_of(kind), TransformersTokenizer(word_tokenizer(["a"])), wanted).to(DEVICE)


def random_pairs(seed: int, number: int, longest: int) -> list[Pair]:
    """Prompts that grow from each other or branch anywhere, conversations and equal replies among them."""
    noise = np.random.default_rng(seed)
    wholes = [noise.integers(0, 8, 1 + noise.integers(longest)).tolist()]
    pairs: list[Pair] = []
    for _ in range(number):
        known = wholes[noise.integers(len(wholes))]
        prompt = known[: 1 + noise.integers(len(known))] + noise.integers(0, 8, noise.integers(longest)).tolist()
        reply = noise.integers(0, 8, noise.integers(4)).tolist()
        pairs += [(prompt, reply)] * (1 + noise.integers(2))
        wholes.append([*prompt, *reply])
    return pairs


def gradients(policy: Policy, pairs: list[Pair], rules: RowRules, budget: int) -> dict[str, torch.Tensor]:
    """Of a loss in which no token's log-probability or entropy counts as another's."""
    policy.zero_grad()
    weights = torch.linspace(-1, 1, 8 * len(pairs), device=DEVICE).view(len(pairs), 8)
    for rows in plan_micro_batches(token_trees(pairs), budget, rules):
        tokens = make_token_batch(pairs, 0, rows).to(torch.device(DEVICE))
        order = [index for row in rows for tree in row for index in tree.pairs]
        logprobs, entropy = policy(tokens)
        ((logprobs + 0.3 * entropy) * weights[order, : logprobs.shape[1]]).sum().backward()
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in policy.named_parameters()
    }


def assert_equal_to_1e_5(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Relative to the whole gradient's norm, as an update sees it."""
    off, norm = (torch.cat([each.flatten() for each in of.values()]).double() for of in (found, expected))
    assert (off - norm).norm() <= 1e-5 * norm.norm().clamp(min=1e-6)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have some small trees be large, and fill several blocks."""
    monkeypatch.setattr(block_attention, "_QUERIES", 8)
    monkeypatch.setattr(tree_attention, "QUICK", (8, 24))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("wanted", [None, "sdpa"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), number=st.integers(1, 12), budget=st.integers(10, 400))
def test_gradients_of_random_trees_are_those_of_one_row_a_step(
    kind: str, wanted: str | None, seed: int, number: int, budget: int
) -> None:
    policy, pairs = policy_of(kind, wanted), random_pairs(seed, number, 20)
    rules = policy.row_rules if wanted else RowRules(one_row=True, quick=(8, 16))
    expected = gradients(policy, pairs, PLAIN, 10_000)
    assert_equal_to_1e_5(gradients(policy, pairs, rules, budget), expected)


@pytest.mark.parametrize("wanted", [None, "sdpa"])
def test_gradient_checkpointing_changes_no_gradient_of_trees(wanted: str | None) -> None:
    policy, pairs = policy_of(wanted=wanted).train(), random_pairs(3, 10, 20)
    expected = gradients(policy, pairs, PLAIN, 10_000)
    policy.model.gradient_checkpointing_enable()
    assert_equal_to_1e_5(gradients(policy, pairs, RowRules(one_row=True), 400), expected)


def random_until(seed: int, length: int) -> torch.Tensor:
    """Of trees with random depths, of which some have several beside them."""
    noise, depths = np.random.default_rng(seed), [0]
    for _ in range(length - 1):
        back = 0 if noise.random() < 0.3 else int(noise.integers(depths[-1] + 1))
        depths.append(back if noise.random() < 0.1 else depths[-1] + 1)
    ends = [next((q for q in range(k + 1, length) if depths[q] <= depths[k]), length) for k in range(length)]
    return torch.tensor([ends])


def batch_of(until: torch.Tensor) -> TokenBatch:
    """A batch whose ``until`` alone matters."""
    zeros = torch.zeros_like(until)
    return TokenBatch(
        input_ids=zeros, position_ids=zeros, until=until, source=zeros, reply_ids=zeros, action_mask=zeros.bool()
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), length=st.integers(1, 70))
def test_trees_give_what_a_dense_mask_gives(seed: int, length: int) -> None:
    until = torch.cat([random_until(seed, length), random_until(seed + 1, length)])
    states = [torch.randn(2, heads, length, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    noise = torch.randn(2, length, 4, 8, dtype=torch.float64)
    ours = tree_attention.tree_attention(*states, until[:, None, None], 0.4)
    query, key, value = states
    repeated = (each.repeat_interleave(2, 1) for each in (key, value))
    mask = batch_of(until).attention_mask()
    dense = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.4).transpose(1, 2)
    torch.testing.assert_close(ours, dense)
    for one, other in zip(*(torch.autograd.grad(each, states, noise) for each in (ours, dense)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("length", [40, 300])  # of which the softmax of blocks is kept, and computed again
def test_in_a_short_type_trees_are_as_close_to_float32_as_pytorchs_own_attention(length: int) -> None:
    torch.manual_seed(0)
    until = torch.full((1, length), length)
    states = [torch.randn(1, heads, length, 16).bfloat16() for heads in (4, 2, 2)]
    states[1][:, :, 0] = 4 * states[0].float().mean((1, 2))  # a key that draws much weight, as models have one
    noise = torch.randn(1, length, 4, 16).bfloat16()

    def computed(dtype: torch.dtype, ours: bool) -> list[torch.Tensor]:
        query, key, value = (each.to(dtype).requires_grad_() for each in (each.clone() for each in states))
        if ours:
            out = tree_attention.tree_attention(query, key, value, until[:, None, None])
        else:
            repeated = (each.repeat_interleave(2, 1) for each in (key, value))
            mask = batch_of(until).attention_mask()
            out = scaled_dot_product_attention(query, *repeated, attn_mask=mask).transpose(1, 2)
        assert out.dtype == dtype
        return [out, *torch.autograd.grad(out, (query, key, value), noise.to(dtype))]

    exact = computed(torch.float32, ours=False)
    for right, mine, theirs in zip(
        exact, computed(torch.bfloat16, ours=True), computed(torch.bfloat16, ours=False), strict=True
    ):
        off, limit = ((each.float() - right).norm() / right.norm() for each in (mine, theirs))
        assert off < 1.5 * limit
        assert off < 0.01


@pytest.mark.parametrize("inside", [False, True])
def test_mixed_precision_computes_trees_in_its_short_type(inside: bool) -> None:
    until = torch.full((1, 40), 40)[:, None, None]
    states = [torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3)]
    exact = tree_attention.tree_attention(*(each.bfloat16() for each in states), until)
    with torch.autocast("cpu", torch.bfloat16):
        ours = tree_attention.tree_attention(*states, until)
        found = torch.autograd.grad(ours.float().sum(), states) if inside else ()
    assert torch.equal(ours, exact)
    for one, other in zip(
        found or torch.autograd.grad(ours.float().sum(), states),
        torch.autograd.grad(exact.float().sum(), states),
        strict=True,
    ):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), length=st.integers(1, 70))
def test_the_block_mask_of_flex_attention_says_what_the_dense_one_says(seed: int, length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_BLOCK", 16)
        tokens = batch_of(torch.cat([random_until(seed, length), random_until(seed + 1, length)]))
        made = block_mask(tokens)
    assert_says_the_same(made, tokens, block=16)


def test_the_block_mask_of_padded_rows_of_many_blocks_says_what_the_dense_one_says() -> None:
    pairs = random_pairs(1, 40, 60)
    tasks = [0] * 8 + [1] * 30 + [2] * (len(pairs) - 38)
    trees = token_trees(pairs, tasks)
    tokens = make_token_batch(pairs, 0, [[tree for tree in trees if tasks[tree.pairs[0]] == task] for task in range(3)])
    assert tokens.until.shape[1] > 3 * 128
    assert not tokens.position_ids[0, -128:].any()  # a block and more of what fills up
    assert_says_the_same(block_mask(tokens), tokens, block=128)


def assert_says_the_same(made: BlockMask, tokens: TokenBatch, block: int) -> None:
    """Whole blocks, blocks of which a part counts, and each of their places, as the dense mask has them."""
    dense = tokens.attention_mask()[:, 0]
    length = dense.shape[1]
    beyond = -length % block
    blocks = torch.nn.functional.pad(dense, (0, beyond, 0, beyond)).unfold(1, block, block).unfold(2, block, block)
    for row in range(len(dense)):
        whole, some = nonzero(blocks[row].all(-1).all(-1)), nonzero(blocks[row].any(-1).any(-1))
        assert listed(made.full_kv_num_blocks, made.full_kv_indices, row) == whole
        assert listed(made.kv_num_blocks, made.kv_indices, row) == some - whole
    places = torch.arange(length)
    said = [made.mask_mod(row, 0, places[:, None], places[None]) for row in range(len(dense))]
    assert torch.equal(torch.stack(said), dense)


def nonzero(blocks: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(here), int(there)) for here, there in blocks.nonzero()}


def listed(numbers: Any, indices: Any, row: int) -> set[tuple[int, int]]:
    return {
        (here, int(there))
        for here, number in enumerate(numbers[row, 0].tolist())
        for there in indices[row, 0, here, :number]
    }


@pytest.fixture
def _uncompiled() -> Iterator[None]:
    """FlexAttention as it is written: compiling takes a minute and, on a CPU, a compiler."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("seed", range(3))
def test_flex_attention_says_of_trees_what_is_said_of_one_row_a_step(seed: int) -> None:
    policy, pairs = policy_of(wanted="flex_attention"), random_pairs(seed, 16, 40)
    (rows,) = plan_micro_batches(token_trees(pairs), 10_000, policy.row_rules)
    assert len(rows) == 1
    assert sum(tree.num_tokens for tree in rows[0]) > 2 * 128  # three blocks at least
    order = [index for row in rows for tree in row for index in tree.pairs]
    (plain,) = plan_micro_batches(token_trees(pairs), 100_000, PLAIN)
    plain_order = [index for row in plain for tree in row for index in tree.pairs]
    with torch.no_grad():
        ours = policy(make_token_batch(pairs, 0, rows).to(torch.device(DEVICE)))[0]
        expected = policy(make_token_batch(pairs, 0, plain).to(torch.device(DEVICE)))[0]
    torch.testing.assert_close(ours[np.argsort(order)], expected[np.argsort(plain_order)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "wanted", "config", "expected"),
    [
        ("cpu", None, {}, (TOKEN_TREES, True, True)),
        ("cuda", None, {}, ("flex_attention", True, True)),
        ("cuda", None, {"attention_dropout": 0.1}, ("sdpa", True, False)),  # which the others do not have
        ("cpu", None, {"attention_dropout": 0.1}, ("sdpa", True, False)),
        ("cpu", None, {"attn_pdrop": 0.1}, ("sdpa", True, False)),
        ("cuda", "sdpa", {}, ("sdpa", True, False)),
        ("cpu", "flex_attention", {}, ("flex_attention", True, True)),
        ("cuda", "flash_attention_2", {}, ("flash_attention_2", False, True)),
        ("cpu", "eager", {}, ("eager", False, False)),
        ("cpu", None, WINDOWED, ("sdpa", False, False)),
        ("cuda", None, HYBRID, ("sdpa", False, False)),
        ("cuda", "flex_attention", WINDOWED, ("flex_attention", False, False)),
        ("cuda", "flash_attention_2", WINDOWED, ("flash_attention_2", False, True)),
        ("cuda", "flash_attention_2", HYBRID, ("flash_attention_2", False, False)),
    ],
)  # fmt: skip
def test_model_and_device_choose_the_attention(
    device: str, wanted: str | None, config: dict[str, Any], expected: tuple[str, bool, bool]
) -> None:
    model = model_of()
    for name, value in config.items():
        setattr(model.config, name, value)
    found = attention_of(model, device, wanted)
    assert (found.name, found.rules.shared, found.rules.one_row) == expected


@pytest.mark.parametrize(
    ("config", "everything"),
    [
        ({"sliding_window": 4096, "use_sliding_window": True, "layer_types": None}, False),
        ({"sliding_window": 4096, "use_sliding_window": False, "layer_types": None}, True),
        ({"sliding_window": 4096, "layer_types": ["full_attention"] * 2}, True),
        ({"layer_types": ["full_attention", "chunked_attention"]}, False),
        ({"alibi": True}, False),
    ],
)
def test_only_full_attention_shares(config: dict[str, Any], everything: bool) -> None:
    model = model_of()
    for name, value in config.items():
        setattr(model.config, name, value)
    assert attends_to_everything(model) is everything


def test_a_model_with_a_state_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(type(model), "_is_stateful", True)
    assert not attends_to_everything(model)


def test_a_model_moved_to_another_device_chooses_anew() -> None:
    policy = policy_of()
    assert [policy.attention(device).name for device in ("cpu", "cuda", "cpu")] == [
        TOKEN_TREES, "flex_attention", TOKEN_TREES
    ]  # fmt: skip


def test_attention_for_cpus_is_refused_elsewhere() -> None:
    with pytest.raises(ValueError, match="attention must not be token_trees on cuda, which is for CPUs; leave it out"):
        attention_of(model_of(), "cuda", TOKEN_TREES)


@pytest.mark.parametrize("wanted", ["eager", "flash_attention_2"])
def test_an_attention_without_masks_refuses_trees_that_branch(wanted: str) -> None:
    model = model_of()
    tokens = make_token_batch([([1, 2], [3]), ([1, 2], [4])], 0)
    with pytest.raises(ValueError, match=f"tokens must be plain sequences for attention {wanted}, got trees that bran"):
        attention_of(model, "cuda", wanted).inputs(tokens)


def test_flash_attention_is_told_by_positions_where_a_sequence_begins() -> None:
    pairs: list[Pair] = [([1, 2], [3]), ([1, 2], [4])]
    rules = attention_of(model_of(), "cuda", "flash_attention_2")
    (rows,) = plan_micro_batches(token_trees(pairs), 100, rules.rules)
    inputs = rules.inputs(make_token_batch(pairs, 0, rows))
    assert inputs["attention_mask"] is None
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize("wanted", [None, "sdpa", "eager"])
def test_plain_sequences_need_neither_mask_nor_positions(wanted: str | None) -> None:
    tokens = make_token_batch([([1, 2], [3]), ([1, 2, 3], [4])], 0)
    assert attention_of(model_of(), "cpu", wanted).inputs(tokens) == {"attention_mask": None, "position_ids": None}


def test_no_mask_of_a_long_row_s_square_is_made_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_token_batch([([1] * 20, [2]), ([1] * 20, [3])], 0)
    monkeypatch.setattr(TokenBatch, "attention_mask", partial(pytest.fail, "a dense mask"))
    assert attention_of(model_of(), "cpu").inputs(tokens)["attention_mask"].shape == (1, 1, 1, 22)


def test_cudnn_s_attention_is_left_out_on_a_gpu_alone() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for device, enabled in (("cpu", True), ("cuda", False)):
            torch.backends.cuda.enable_cudnn_sdp(True)
            leave_out_cudnn(torch.device(device))
            assert torch.backends.cuda.cudnn_sdp_enabled() is enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_a_saved_configuration_does_not_name_our_attention() -> None:
    policy = policy_of()
    policy(make_token_batch([([1, 2], [3]), ([1, 2], [4])], 0).to(torch.device(DEVICE)))
    assert TOKEN_TREES not in policy.model.config.to_json_string()
