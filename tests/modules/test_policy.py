"""The policy says how likely its replies are, and comes from any checkpoint without running its code."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from gigpo_lightning.token_trees import RowRules, in_rows, token_trees
from modules import Policy, PretrainedPolicy, TinyPolicy
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer
from tests.devices import DEVICE


def words() -> list[str]:
    return [f"w{number}" for number in range(12)]


def tiny(tie_embeddings: bool = True) -> Policy:
    source = TinyPolicy([words], hidden_size=16, intermediate_size=16, max_length=32, tie_embeddings=tie_embeddings)
    return source.build().eval().to(DEVICE)


def batch(rules: RowRules = RowRules()) -> TokenBatch:  # noqa: B008  frozen
    return make_token_batch(PAIRS, 0, in_rows(token_trees(PAIRS), rules)).to(DEVICE)


PAIRS = [([3, 4], [10]), ([3, 4], [5, 6, 2]), ([7, 8], [9, 2])]  # in the order of their tokens
RULES = {
    "trees in rows": RowRules(),
    "trees side by side": RowRules(one_row=True),
    "plain rows": RowRules(shared=False),
    "plain side by side": RowRules(shared=False, one_row=True),
}


def on_its_own(policy: Policy, pair: tuple[list[int], list[int]]) -> torch.Tensor:
    """Logits before each token of a reply, from the whole model and this sequence alone."""
    prompt, reply = pair
    logits: torch.Tensor = policy.model(input_ids=torch.tensor([[*prompt, *reply]], device=DEVICE)).logits[0]
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_and_entropies_are_those_of_each_sequence_on_its_own(temperature: float, rules: RowRules):
    policy = tiny()
    tokens = batch(rules)
    logprobs, entropy = policy(tokens, temperature)
    for row, pair in enumerate(sorted(PAIRS, key=lambda pair: tokens.reply_ids[:, 0].tolist().index(pair[1][0]))):
        for column, (token, logits) in enumerate(zip(pair[1], on_its_own(policy, pair), strict=True)):
            distribution = torch.distributions.Categorical(logits=logits / temperature)
            torch.testing.assert_close(logprobs[row, column], distribution.log_prob(torch.tensor(token, device=DEVICE)))
            torch.testing.assert_close(entropy[row, column], distribution.entropy())


SHAPE = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config"),
    [(GraniteForCausalLM, GraniteConfig(**SHAPE, logits_scaling=8.0)), (CohereForCausalLM, CohereConfig(**SHAPE))],
    ids=["granite", "cohere"],
)
def test_what_a_model_does_to_its_logits_counts(kind: type[PreTrainedModel], config: PretrainedConfig):
    policy = Policy(kind(config).eval(), tiny().tokenizer).to(DEVICE)
    torch.nn.init.normal_(policy.model.get_output_embeddings().weight)
    logprobs, _ = policy(make_token_batch(PAIRS, 0).to(DEVICE))
    for row, pair in enumerate(PAIRS):
        expected = on_its_own(policy, pair).log_softmax(-1)[range(len(pair[1])), pair[1]]
        torch.testing.assert_close(logprobs[row, : len(pair[1])], expected)


def test_a_model_that_caps_its_logits_is_refused():
    model = tiny().model
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match=r"model must not cap its logits, got final_logit_softcapping 30\.0"):
        Policy(model, tiny().tokenizer)


def test_what_the_policy_did_not_write_counts_exactly_nothing():
    tokens = batch()
    logprobs, entropy = tiny()(tokens)
    assert not logprobs[~tokens.action_mask].any()
    assert not entropy[~tokens.action_mask].any()


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_prompt_that_is_computed_once_has_the_gradient_of_all_its_replies(gradient_checkpointing: bool):
    gradients = {}
    for name, rules in RULES.items():
        policy = tiny().train()
        if gradient_checkpointing:
            policy.model.gradient_checkpointing_enable()
        policy(batch(rules))[0].sum().backward()
        gradients[name] = {name: each.grad for name, each in policy.named_parameters()}
    for found in gradients.values():
        torch.testing.assert_close(found, gradients["plain rows"])


@pytest.mark.slow
def test_gradients_on_two_threads_are_the_same_every_time():
    policy = TinyPolicy([words], hidden_size=256, num_layers=1).build()
    prompt = [3 + place % 9 for place in range(400)]
    tokens = make_token_batch([(prompt, [3 + reply % 9]) for reply in range(400)], policy.tokenizer.pad_token_id)
    assert len(tokens.source.unique()) == 1  # all replies read one state, the prompt's last: its gradient is their sum
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [_gradient(policy, tokens) for _ in range(6)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, gradients[0]) for each in gradients)


def _gradient(policy: Policy, tokens: TokenBatch) -> torch.Tensor:
    """Of a loss in which no reply is like another."""
    policy.zero_grad()
    logprobs, _ = policy(tokens)
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    return torch.cat([weight.grad.flatten() for weight in policy.parameters()])


@pytest.mark.parametrize("attention", [None, "sdpa", "eager", "flex_attention"])
def test_a_policy_has_the_attention_that_its_source_names(attention: str | None, tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    for source in (TinyPolicy([words], attention=attention), PretrainedPolicy(str(tmp_path), attention=attention)):
        assert source.build().attention("cpu").name == (attention or "token_trees")
        assert source.skeleton().attention("cpu").name == (attention or "token_trees")


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_every_weight_is_named_and_tied_ones_twice(tie_embeddings: bool):
    named = dict(tiny(tie_embeddings).named_weights())
    same = named["lm_head.weight"].data_ptr() == named["model.embed_tokens.weight"].data_ptr()
    assert same is tie_embeddings


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_saved_policy_comes_back_whole(tie_embeddings: bool, tmp_path: Path):
    policy = tiny(tie_embeddings)
    policy.save_pretrained(tmp_path)
    back = PretrainedPolicy(str(tmp_path)).build().eval().to(DEVICE)
    tokens = batch()
    torch.testing.assert_close(back(tokens), policy(tokens), rtol=0, atol=0)
    text = "w3 w11 w0"
    assert back.tokenizer.encode(text) == policy.tokenizer.encode(text)
    assert back.tokenizer.decode([*back.tokenizer.encode(text), back.tokenizer.end_token_id]) == text
    assert back.tokenizer.stop_token_ids == policy.tokenizer.stop_token_ids


@pytest.mark.parametrize("text", ["w3 w11 w0", "", "  w1   w2 ", "nobody knows w4", "<end> w1 <pad>", "\ud7ff é\n\tw5"])
def test_the_short_way_to_token_ids_gives_what_transformers_gives(text: str):
    bytes_too = Tokenizer(BPE())
    bytes_too.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bytes_too.train_from_iterator(["w1 w2 w11", "nobody knows", "é"], BpeTrainer(initial_alphabet=ByteLevel.alphabet()))
    for tokenizer in (
        tiny().tokenizer.tokenizer,
        PreTrainedTokenizerFast(tokenizer_object=bytes_too, eos_token="<end>", pad_token="<pad>"),
    ):
        ours = TransformersTokenizer(tokenizer)
        assert ours.encode(text) == tokenizer.encode(text, add_special_tokens=False)


def test_limits_that_somebody_set_on_the_tokenizer_cut_no_prompt():
    policy = tiny()
    inner = policy.tokenizer.tokenizer
    inner(["w1 w2 w3", "w1"], padding="max_length", truncation=True, max_length=2)
    assert inner.backend_tokenizer.truncation is not None
    assert policy.tokenizer.encode("w1 w2 w3") == inner.convert_tokens_to_ids(["w1", "w2", "w3"])


def test_the_seed_decides_the_weights_and_disturbs_no_other_noise():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (TinyPolicy([words], hidden_size=16, seed=seed).build() for seed in (0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(*(next(policy.parameters()) for policy in (first, second)))


def test_a_model_that_is_not_there_is_refused_by_its_name(tmp_path: Path):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"model must be a checkpoint folder or a hub name .*nowhere"):
        PretrainedPolicy(missing).build()


def test_a_gguf_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path):
    pytest.importorskip("gguf")
    with pytest.raises(ValueError, match=r"gguf_file must be a file in '.*', got 'model\.gguf'"):
        PretrainedPolicy(str(tmp_path), gguf_file="model.gguf").build()


@pytest.mark.skipif(importlib.util.find_spec("gguf") is not None, reason="the package gguf is installed")
def test_a_gguf_file_without_what_reads_it_is_refused(tmp_path: Path):
    with pytest.raises(ImportError, match="Install the extra 'gguf'"):
        PretrainedPolicy(str(tmp_path), gguf_file="model.gguf")


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    endless = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(words()).backend_tokenizer)
    endless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must have an eos_token, which ends a reply; it has none"):
        PretrainedPolicy(str(tmp_path)).build()


def test_a_chat_prompt_needs_a_chat_template():
    with pytest.raises(
        ValueError, match=r"the policy's tokenizer, .* must have a chat template for this prompt, but has"
    ):
        tiny().tokenizer.encode_chat([{"role": "user", "content": "w1"}])


def test_what_a_chat_template_refuses_is_said_with_the_tokenizers_name(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    tokenizer = PretrainedPolicy(str(tmp_path)).build().tokenizer
    tokenizer.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(
        ValueError, match=rf"chat template of the tokenizer '{tmp_path}' must take .*'system'.*no system"
    ):
        tokenizer.encode_chat([{"role": "system", "content": "w1"}])


def test_half_a_character_is_a_question_mark_to_the_tokenizer():
    tokenizer = tiny().tokenizer
    tokenizer.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert tokenizer.encode("w1 \ud83d") == tokenizer.encode("w1 ?")
    chats = [[{"role": "user", "content": content}] for content in ("w1 \ud83d", "w1 ?")]
    assert tokenizer.encode_chat(chats[0]) == tokenizer.encode_chat(chats[1])


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "homemade.Homemade", "AutoModelForCausalLM": "homemade.Homemade"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "homemade.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nclass Homemade: ...\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        PretrainedPolicy(str(tmp_path)).build()
    assert not (tmp_path / "was_run").exists()
