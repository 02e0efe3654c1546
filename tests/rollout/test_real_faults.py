"""Faults with everything real: vLLM, worker processes, a model that writes nonsense."""

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from callbacks import WeightSync
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import Collector, SamplingParameters, VLLMEngine, make_pool
from modules import GiGPOModule, Policy
from modules.tokenizer import TransformersTokenizer
from tests.rollout.faulty_environment import FaultyEnvironment
from tests.rollout.test_faults import QUICK, make_tasks

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


class ByteSource:
    """A model with random weights that writes bytes: hardly any reply of it is valid UTF-8."""

    def build(self) -> Policy:
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(initial_alphabet=ByteLevel.alphabet(), special_tokens=["<end>"])
        tokenizer.train_from_iterator(["left", "up"], trainer)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
        config = Qwen2Config(
            vocab_size=len(wrapped),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
        return Policy(Qwen2ForCausalLM(config).eval(), TransformersTokenizer(wrapped))


@pytest.fixture(scope="module")
def engine_and_tokenizer():
    module = GiGPOModule(ByteSource(), GiGPO())
    engine = VLLMEngine(kv_cache_gib=0.125)
    WeightSync().sync(module, engine)
    yield engine, module.policy.tokenizer
    engine.close()


@pytest.fixture
def player(engine_and_tokenizer):
    engine, tokenizer = engine_and_tokenizer
    pool = make_pool(FaultyEnvironment(), 12, 2, QUICK)
    yield Collector(
        engine=engine,
        pool=pool,
        prompt=GridworldPrompt(),
        tokenizer=tokenizer,
        sampling=SamplingParameters(max_tokens=24),
        max_steps=5,
        seed=0,
        max_retries=1,
    )
    pool.close()


@pytest.mark.parametrize("where", ["reset", "step"])
@pytest.mark.parametrize("fault", ["raises", "hangs", "dies", "no string"])
def test_with_vllm_and_workers_nothing_is_lost_and_the_counts_add_up(player, tmp_path, fault, where):
    groups, progress = player.play(make_tasks(tmp_path, fault, where), 3, noise_key=0, name="once")
    assert (len(groups), progress.total, progress.finished, progress.dropped) == (4, 12, 12, 0)
    assert progress.retried >= 1
    tasks = make_tasks(tmp_path / "again", fault, where, times=100)
    (tmp_path / "again").mkdir()
    groups, progress = player.play(tasks, 3, noise_key=1, name="always")
    assert [group.task_id for group in groups] == ["task 0", "task 2", "task 3"]
    assert (progress.finished, progress.dropped) == (9, 3)


def test_bytes_that_are_no_text_are_actions_all_the_same(player, tmp_path):
    groups, _ = player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="test")
    steps = [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
    assert len(steps) == 36
    assert any("\ufffd" in step.response for step in steps)
    assert any(len(step.completion_ids) == 24 for step in steps)  # no end token came
    assert all(len(step.completion_ids) == len(step.logprobs) for step in steps)


def test_after_an_engine_that_broke_off_the_next_rollout_is_whole(player, tmp_path, monkeypatch):
    core = player.engine._llm.llm_engine
    step, calls = core.step, []

    def breaking():
        calls.append(1)
        if len(calls) == 30:
            raise MemoryError("the device is full")
        return step()

    monkeypatch.setattr(core, "step", breaking)
    with pytest.raises(MemoryError):
        player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="breaks")
    monkeypatch.undo()
    assert player.engine.poll() == []
    fresh = Collector(
        engine=player.engine,
        pool=make_pool(FaultyEnvironment(), 12, 1),
        prompt=player.player.prompt,
        tokenizer=player.player.tokenizer,
        sampling=player.player.sampling,
        max_steps=5,
        seed=0,
    )
    groups, progress = fresh.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="whole")
    fresh.pool.close()
    assert (len(groups), progress.finished) == (4, 12)


def test_a_prompt_that_the_context_has_no_room_for_is_named_and_the_engine_goes_on(player, tmp_path):
    player.player.max_prompt_tokens = 3
    with pytest.raises(ValueError, match="no room for the prompt of task 'task"):
        player.play(make_tasks(tmp_path, times=0), 3, noise_key=0, name="test")
    assert player.engine.poll() == []
