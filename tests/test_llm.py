"""A real pretrained language model, from its GGUF file to an exported folder: what toy policies cannot show.

`make llm` fetches it into data/llm; ``GIGPO_TEST_LLM`` may name another folder with the file.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.batch import make_minibatches
from gigpo_lightning.engines.base import Completion, GenerationRequest, SamplingParameters
from gigpo_lightning.imitation import ChatMessages, Example
from gigpo_lightning.prompts.base import TurnView
from gigpo_lightning.prompts.text import TextPrompt
from gigpo_lightning.rollout import VLLMEngine
from gigpo_lightning.rollout.sync import ProvedSync
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.trajectory import StepTable
from gigpo_lightning.update import Learner
from modules import AdaptedPolicy, BehaviourCloningModule, LoraPolicy, Policy, PretrainedPolicy
from tests.episodes import group, step, trajectory
from tests.smollm2 import GGUF, smollm2_folder

pytestmark = [pytest.mark.llm, pytest.mark.slow]

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
VIEW = TurnView(instruction="go to row 1", observation="you are at row 2 .", admissible_actions=("up", "left"))
PROMPT = TextPrompt(history_length=0, require_think=False)


@pytest.fixture(scope="module")
def gguf_folder() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="module")
def policy(gguf_folder: Path) -> Policy:
    """Read once; tests that train take a copy."""
    return PretrainedPolicy(str(gguf_folder), gguf_file=GGUF).build()


@pytest.fixture
def learning(policy: Policy) -> Policy:
    return copy.deepcopy(policy)


@pytest.fixture
def adapted(policy: Policy) -> AdaptedPolicy:
    """The model with adapters that are not nothing."""
    pytest.importorskip("peft")

    made = LoraPolicy(_Ready(copy.deepcopy(policy)), rank=4, targets=["q_proj", "down_proj"]).build()
    assert isinstance(made, AdaptedPolicy)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in made.adapted_layers():
            weight = layer.lora_B["default"].weight
            weight.copy_(torch.randn(weight.shape, generator=noise) * 0.02)
    return made


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest) -> Iterator[VLLMEngine]:
    """One start of vLLM a type; there is room for adapters in both."""
    pytest.importorskip("vllm")
    made = VLLMEngine(dtype=request.param, max_model_len=256, kv_cache_gib=0.125, max_num_seqs=8, max_lora_rank=8)
    yield made
    made.close()


def agreement(engine: VLLMEngine) -> float:
    """Mean difference in nats that healthy kernels of the engine's type stay below."""
    return 1e-4 if engine.memory_settings(on_gpu=False).weight_type == "float32" else 0.1


def likelihood(policy: Policy, prompt_ids: list[int] | tuple[int, ...], text: str) -> float:
    """Log-probability of a reply and its end."""
    reply = (*policy.tokenizer.encode(text), policy.tokenizer.end_token_id)
    return float(policy.score(make_token_batch([(prompt_ids, reply)], 0))[0].sum())


def test_the_weights_of_the_file_have_a_plain_type(policy: Policy) -> None:
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    assert not hasattr(policy.model.config, "quantization_config")


def test_the_chat_template_is_the_model_s_own(policy: Policy) -> None:
    text = policy.tokenizer.exact_text(PROMPT.encode(VIEW, policy.tokenizer, 200).ids)
    assert text.count("<|im_start|>") == 3  # the system's, the user's, and the reply's
    assert text.endswith("<|im_start|>assistant\n")


def test_a_turn_s_end_ends_a_reply(policy: Policy) -> None:
    assert policy.tokenizer.exact_text(policy.tokenizer.stop_token_ids) == "<|im_end|>"


def test_the_model_knows_something(policy: Policy) -> None:
    prompt = policy.tokenizer.encode_chat(QUESTION)
    answers = [f"The capital of France is {city}." for city in ("Paris", "London")]
    assert likelihood(policy, prompt, answers[0]) > likelihood(policy, prompt, answers[1]) + 3.0


def test_a_conversation_of_a_file_is_one_row_of_which_the_replies_are_learnt(policy: Policy, tmp_path: Path) -> None:
    chat = [("user", "left or right?"), ("assistant", "left"), ("user", "and now?"), ("assistant", "right")]
    messages = [{"role": role, "content": content} for role, content in chat]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}))
    source = ChatMessages(str(tmp_path), held_out_share=0.0)
    ((row,),) = source.episodes(policy.tokenizer, held_out=False, seed=0)
    assert row.written is not None
    learnt = [token for token, written in zip(row.reply_ids, row.written, strict=True) if written]
    assert policy.tokenizer.exact_text(learnt) == "left<|im_end|>right<|im_end|>"
    whole = policy.tokenizer.exact_text((*row.prompt_ids, *row.reply_ids))
    assert whole.endswith("and now?<|im_end|>\n<|im_start|>assistant\nright<|im_end|>")


def test_an_imitation_step_makes_the_reply_likelier_and_not_the_question(learning: Policy) -> None:
    tokenizer = learning.tokenizer
    prompt = tuple(PROMPT.encode(VIEW, tokenizer, 200).ids)
    before = likelihood(learning, prompt, "<action>up</action>")
    module = BehaviourCloningModule(_Ready(learning))
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    row = Example(prompt_ids=prompt, reply_ids=(*tokenizer.encode("<action>up</action>"), tokenizer.end_token_id))
    optimizer = torch.optim.SGD(learning.parameters(), lr=1e-2)
    module.training_step(make_token_batch([(row.prompt_ids, row.reply_ids)], 0), 0).backward()
    optimizer.step()
    assert likelihood(learning, prompt, "<action>up</action>") > before + 1.0


def test_a_gigpo_step_moves_good_and_bad_replies_apart(learning: Policy) -> None:
    prompt = tuple(PROMPT.encode(VIEW, learning.tokenizer, 200).ids)
    good, bad = "<action>up</action>", "<action>left</action>"
    steps = []
    for text, reward in ((good, 1.0), (bad, 0.0)):
        reply = (*learning.tokenizer.encode(text), learning.tokenizer.end_token_id)
        logprobs = learning.score(make_token_batch([(prompt, reply)], 0))[0][0].tolist()
        steps.append(step(prompt, reply, reward=reward, logprobs=tuple(logprobs)))
    groups = [group(*(trajectory(each, episode_index=number) for number, each in enumerate(steps)))]
    minibatches = make_minibatches(
        groups,
        GiGPO().estimate(StepTable.from_groups(groups)),
        pad_token_id=0,
        temperature=1.0,
        minibatch_size=None,
        micro_batch_tokens=1024,
        seed=0,
    )
    before = [likelihood(learning, prompt, text) for text in (good, bad)]
    optimizer = torch.optim.SGD(learning.parameters(), lr=1e-2)
    losses = Learner(learning, LossSettings(), optimizer).update(minibatches[0], 0.0)
    after = [likelihood(learning, prompt, text) for text in (good, bad)]
    assert losses["approximate_kl"] == pytest.approx(0.0, abs=1e-6)  # the ratio is 1 on policy
    assert (after[0] - after[1]) - (before[0] - before[1]) > 0.1


def test_an_exported_folder_holds_the_adapted_model(adapted: AdaptedPolicy, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path)
    loaded = PretrainedPolicy(str(tmp_path)).build()
    prompt = loaded.tokenizer.encode_chat(QUESTION)
    assert prompt == adapted.tokenizer.encode_chat(QUESTION)
    assert loaded.tokenizer.stop_token_ids == adapted.tokenizer.stop_token_ids
    assert likelihood(loaded, prompt, "Paris.") == pytest.approx(likelihood(adapted, prompt, "Paris."), abs=1e-3)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.vllm
def test_the_engine_answers_a_question_as_the_trainer_would(engine: VLLMEngine, policy: Policy) -> None:
    sync = ProvedSync()
    sync.sync(policy, engine)
    assert sync.metrics["sync/mean_abs_logprob_error"] < agreement(engine)
    prompt = tuple(policy.tokenizer.encode_chat(QUESTION))
    sampling = SamplingParameters(temperature=0.0, max_tokens=12)
    request = GenerationRequest(
        request_id="0",
        prompt_ids=prompt,
        sampling=sampling,
        stop_token_ids=policy.tokenizer.stop_token_ids,
        seed=0,
    )
    engine.submit(request)
    replies: list[Completion] = []
    while not replies:
        replies = engine.poll()
    (reply,) = replies
    ours = policy.score(make_token_batch([(prompt, reply.token_ids)], 0))[0][0].tolist()
    differences = [abs(one - other) for one, other in zip(ours, reply.logprobs, strict=True)]
    assert sum(differences) / len(differences) < agreement(engine)


@pytest.mark.vllm
@pytest.mark.parametrize("adapters", [False, True], ids=["merged", "beside"])
def test_the_engine_has_an_adapter_added_or_beside(engine: VLLMEngine, adapted: AdaptedPolicy, adapters: bool) -> None:
    adapted.policy_version = engine.policy_version + 1
    sync = ProvedSync(adapters=adapters)
    sync.sync(adapted, engine)
    assert sync.metrics["sync/mean_abs_logprob_error"] < agreement(engine)


class _Ready:
    """A source of a policy that is there already."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def build(self) -> Policy:
        return self.policy
