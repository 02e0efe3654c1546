"""What every engine keeps, on real weights; one start serves all tests of an engine and an architecture."""

import copy
import importlib
import weakref
from contextlib import ExitStack

import pytest
import torch
import torch._dynamo.utils

from callbacks import WeightSync
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.engines.weight_proof import WeightProof
from gigpo_lightning.rollout import (
    Adapter,
    Completion,
    GenerationRequest,
    RolloutEngine,
    SamplingParameters,
    TransformersEngine,
    VLLMEngine,
    VLLMServerEngine,
)
from gigpo_lightning.rollout.sync import ProvedSync, probe_errors
from gigpo_lightning.token_batch import make_token_batch
from modules import GiGPOModule, TinyPolicy
from tests.devices import DEVICE, VLLM_TYPE, is_exact, tolerance
from tests.engines.real_server import real_server

REAL = [pytest.mark.vllm, pytest.mark.slow]
CASES = [
    pytest.param((engine, ties), id=f"{engine} {ties}", marks=marks)
    for engine, marks in (("vllm", REAL), ("server", REAL), ("transformers", []))
    for ties in ("tied", "untied")
]


def words() -> list[str]:
    return [f"w{number}" for number in range(60)]


def _memory_of_a_server() -> tuple[str, ...]:
    """Room on a GPU for a server beside the trainer."""
    return ("--gpu-memory-utilization", "0.2") if DEVICE.type == "cuda" else ()


@pytest.fixture(scope="module", params=CASES)
def synced(request, tmp_path_factory):
    """A module and an engine that has its weights; all but one server take adapters, too."""
    name, ties = request.param
    rank = 8 if name == "vllm" or ties == "untied" else 0
    source = TinyPolicy([words], hidden_size=64, max_length=512, tie_embeddings=ties == "tied")
    module = GiGPOModule(source, GiGPO())
    module.configure_model()
    module.to(DEVICE)
    with ExitStack() as stack:
        if name == "vllm":
            engine: RolloutEngine = VLLMEngine(
                dtype=VLLM_TYPE,
                kv_cache_gib=0.125,
                gpu_memory_utilization=0.2,
                max_lora_rank=rank,
                allow_sleep=DEVICE.type == "cuda",  # on a CPU it has nothing to give back
            )
        elif name == "server":
            folder = tmp_path_factory.mktemp("model")
            module.policy.model.config.save_pretrained(folder)
            options = ("--dtype", VLLM_TYPE, *_memory_of_a_server())
            options += ("--enable-lora", "--max-lora-rank", str(rank)) if rank else ()
            engine = VLLMServerEngine([stack.enter_context(real_server(folder, *options)).url])
        else:
            engine = TransformersEngine()
        WeightSync().sync(module, engine)
        yield module, engine
        engine.close()


def change(module: GiGPOModule) -> None:
    noise = torch.Generator().manual_seed(module.policy_version)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise).to(DEVICE), alpha=0.05)
    module.policy_version += 1


def ask(
    engine: RolloutEngine,
    seeds: list[int],
    temperature: float = 1.0,
    prompt=(5, 6, 7, 8),
    stop=(2,),
    max_tokens: int = 8,
) -> dict:
    for seed in seeds:
        engine.submit(
            GenerationRequest(
                request_id=str(seed),
                prompt_ids=prompt,
                sampling=SamplingParameters(temperature=temperature, max_tokens=max_tokens),
                stop_token_ids=stop,
                seed=seed,
            )
        )
    completions = {}
    while len(completions) < len(seeds):
        completions |= {completion.request_id: completion for completion in engine.poll()}
    return completions


def alike(engine: RolloutEngine, ours: Completion, theirs: Completion) -> bool:
    """Whether two replies are the same; where the least bits depend on the company, they at least begin so."""
    length = None if is_exact(engine) else 1
    return ours.token_ids[:length] == theirs.token_ids[:length]


def test_a_sync_brings_new_weights_to_the_engine(synced):
    module, engine = synced
    for _ in range(3):
        change(module)
        sync = WeightSync()
        sync.sync(module, engine)
        assert sync.metrics["sync/max_abs_logprob_error"] < tolerance(engine)
        assert engine.policy_version == module.policy_version


def test_without_a_sync_the_probes_tell(synced):
    module, engine = synced
    WeightSync().sync(module, engine)
    change(module)
    probes = ProvedSync().probes(module.vocabulary_size)
    assert probe_errors(module, engine, probes).max() > 1e-2
    WeightSync().sync(module, engine)


def test_weights_are_taken_block_by_block(synced):
    """Gathered from shards, a second copy of the whole would be one too many."""
    module, engine = synced
    if isinstance(engine, VLLMServerEngine):
        pytest.skip("a server's weights go in parts of a size that is given")
    gathered, most = [], 0

    def one_by_one():
        nonlocal most
        for name, weight in module.policy.named_weights():
            copied = weight.clone()
            gathered.append(weakref.ref(copied))
            most = max(most, sum(each() is not None for each in gathered))
            yield name, copied
            del copied

    change(module)
    engine.load_weights(one_by_one(), module.policy_version)
    assert most < len(gathered) // 2  # there are two blocks
    assert probe_errors(module, engine, ProvedSync().probes(module.vocabulary_size)).max() < tolerance(engine)


@pytest.mark.parametrize("skipped", ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_sync_that_leaves_a_tensor_behind_stops_the_run(synced, skipped, monkeypatch):
    module, engine = synced
    load = engine.load_weights

    def forgetful(named_tensors, version):
        old = {skipped: torch.zeros_like(dict(module.policy.named_weights())[skipped])}
        load([(name, old.get(name, tensor)) for name, tensor in named_tensors], version)

    change(module)
    monkeypatch.setattr(engine, "load_weights", forgetful)
    with pytest.raises(RuntimeError, match=f"bit by bit, but {skipped} differ: "):
        WeightSync().sync(module, engine)
    monkeypatch.undo()
    change(module)
    WeightSync().sync(module, engine)


def test_the_sampled_logprobs_are_the_trainers(synced):
    module, engine = synced
    temperature = 0.7
    for completion in ask(engine, list(range(6)), temperature).values():
        with torch.no_grad():
            tokens = make_token_batch([([5, 6, 7, 8], completion.token_ids)], 0).to(DEVICE)
            ours, _ = module.policy(tokens, temperature)
        assert torch.allclose(ours[0].cpu(), torch.tensor(completion.logprobs), atol=tolerance(engine))


def test_a_reply_depends_on_its_seed_and_not_on_its_company(synced):
    _, engine = synced
    alone = ask(engine, [11])["11"]
    together = ask(engine, [3, 11, 4, 5, 6])
    assert alike(engine, alone, together["11"])
    assert len({completion.token_ids for completion in together.values()}) > 1


def test_temperature_0_takes_the_most_likely_token(synced):
    _, engine = synced
    first, *others = ask(engine, [1, 2, 3], temperature=0.0).values()
    assert all(alike(engine, first, other) for other in others)


def test_the_most_likely_tokens_are_the_trainer_s(synced):
    module, engine = synced
    prompts = [(5, 6, 7, 8), (9,), tuple(range(10, 30))]
    for prompt in prompts:
        (reply,) = ask(engine, [1], temperature=0.0, prompt=prompt).values()
        written = list(prompt)
        for token in reply.token_ids:
            with torch.no_grad():
                logits = module.policy.model(input_ids=torch.tensor([written], device=DEVICE)).logits[0, -1]
            if is_exact(engine):
                assert token == int(logits.argmax())
            assert logits[token] > logits.max() - 2 * tolerance(engine)
            written.append(token)


def test_replies_to_prompts_of_different_lengths_do_not_disturb_each_other(synced):
    _, engine = synced
    prompts = {"1": (5, 6, 7, 8), "2": (9,), "3": tuple(range(10, 30)), "4": (40, 41)}
    alone = {name: ask(engine, [int(name)], prompt=prompt)[name] for name, prompt in prompts.items()}
    for name, prompt in prompts.items():
        sampling = SamplingParameters(temperature=1.0, max_tokens=8)
        engine.submit(
            GenerationRequest(
                request_id=name, prompt_ids=prompt, sampling=sampling, stop_token_ids=(2,), seed=int(name)
            )
        )
    together = {}
    while len(together) < len(prompts):
        together |= {completion.request_id: completion for completion in engine.poll()}
    assert together.keys() == alone.keys()
    assert all(alike(engine, alone[name], together[name]) for name in alone)


def test_a_stop_token_ends_a_reply_and_is_kept_in_it(synced):
    _, engine = synced
    (free,) = ask(engine, [3], stop=()).values()
    assert (len(free.token_ids), free.finish_reason) == (8, "length")
    third = free.token_ids[2]
    engine.submit(
        GenerationRequest(
            request_id="stopped",
            prompt_ids=(5, 6, 7, 8),
            sampling=SamplingParameters(max_tokens=8),
            stop_token_ids=(third,),
            seed=3,
        )
    )
    (stopped,) = engine.poll()
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(third) + 1]


def test_the_model_s_own_end_token_ends_no_reply_that_does_not_name_it(synced):
    """A server reads it from its folder; training and the other engines go by the request alone."""
    module, engine = synced
    assert module.policy.model.config.eos_token_id == 2
    replies = ask(engine, list(range(20, 28)), stop=(), max_tokens=60).values()
    assert any(2 in reply.token_ids[:-1] for reply in replies)
    assert {(len(reply.token_ids), reply.finish_reason) for reply in replies} == {(60, "length")}


def test_vllm_names_the_model_runner_that_computes(synced):
    _, engine = synced
    if not isinstance(engine, VLLMEngine):
        pytest.skip("only vLLM in this process is asked for it")
    assert VLLMEngine().details() == {}
    version, name = engine.details().values()
    module, _, last = name.rpartition(".")
    assert hasattr(importlib.import_module(module), last)
    assert (version, module) in {
        ("V1", "vllm.v1.worker.cpu_model_runner"),
        ("V1", "vllm.v1.worker.gpu_model_runner"),
        ("V2", "vllm.v1.worker.cpu.model_runner"),
        ("V2", "vllm.v1.worker.gpu.model_runner"),
    }


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there vLLM compiles what it runs")
def test_an_engine_compiles_nothing_and_lets_the_policy_be_compiled(synced):
    _, engine = synced
    graphs, compiled = torch._dynamo.utils.counters["stats"], []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()  # whatever has been compiled would be compiled again
    before = graphs["unique_graphs"]
    ask(engine, [1, 2])
    assert graphs["unique_graphs"] == before
    torch.compile(lambda number: number + 1, backend=backend)(torch.ones(1))
    assert len(compiled) == 1
    ask(engine, [1, 2])
    assert graphs["unique_graphs"] == before + 1


def test_nothing_under_way_gives_nothing(synced):
    assert synced[1].poll() == []


def test_weights_that_break_off_half_way_leave_an_engine_that_admits_it(synced):
    module, engine = synced

    def broken():
        for number, named in enumerate(module.policy.named_weights()):
            if number == 5:
                raise ConnectionError("the network is gone")
            yield named

    change(module)
    with pytest.raises(ConnectionError, match="the network is gone"):
        engine.load_weights(broken(), module.policy_version)
    assert engine.policy_version == -1
    WeightSync().sync(module, engine)
    assert engine.policy_version == module.policy_version


def test_a_reply_under_way_can_be_interrupted_and_goes_on_unchanged(synced):
    _, engine = synced
    whole = ask(engine, [4], stop=(), max_tokens=200)["4"]  # so long that no server has answered at the first glance
    engine.submit(
        GenerationRequest(
            request_id="4",
            prompt_ids=(5, 6, 7, 8),
            sampling=SamplingParameters(max_tokens=200),
            stop_token_ids=(),
            seed=4,
        )
    )
    looks = []
    assert engine.poll_unless(lambda: not looks.append(1)) == []
    (rest,) = engine.poll()
    assert alike(engine, rest, whole)
    assert len(looks) == 1


def test_what_is_cancelled_is_never_answered_and_leaves_the_engine_idle(synced):
    module, engine = synced
    expected = ask(engine, [5])["5"]
    for seed in (5, 6, 7):
        engine.submit(
            GenerationRequest(
                request_id=str(seed),
                prompt_ids=(9, 9),
                sampling=SamplingParameters(max_tokens=200),
                stop_token_ids=(),
                seed=seed,
            )
        )
    engine.cancel()
    assert engine.poll() == []
    WeightSync().sync(module, engine)
    engine.load_weights(module.policy.named_weights(), module.policy_version)
    again = ask(engine, [5])["5"]  # the same name as one that was cancelled
    assert alike(engine, again, expected)
    assert again.request_id == "5"


def test_new_weights_wait_for_an_idle_engine(synced):
    module, engine = synced
    engine.submit(
        GenerationRequest(
            request_id="under way",
            prompt_ids=(5,),
            sampling=SamplingParameters(max_tokens=2),
            stop_token_ids=(2,),
            seed=0,
        )
    )
    with pytest.raises(RuntimeError, match="load_weights needs an idle engine"):
        engine.load_weights(module.policy.named_weights(), 99)
    engine.poll()


def test_a_reply_carries_the_version_that_wrote_it(synced):
    module, engine = synced
    assert ask(engine, [1])["1"].policy_version == module.policy_version


def test_new_weights_forget_the_prefixes_of_the_old(synced):
    module, engine = synced
    prompt = tuple(5 + number % 40 for number in range(300))  # longer than two blocks of the key-value cache
    for _ in range(2):  # the second reply reads what the first left in the cache
        (before,) = ask(engine, [1], prompt=prompt).values()
    change(module)
    WeightSync().sync(module, engine)
    (after,) = ask(engine, [1], prompt=prompt).values()
    assert after.policy_version != before.policy_version
    with torch.no_grad():
        expected, _ = module.policy(make_token_batch([(prompt, after.token_ids)], 0).to(DEVICE))
    assert after.logprobs == pytest.approx(expected[0].tolist(), abs=tolerance(engine))


def test_a_prompt_longer_than_the_context_is_refused_before_it_is_queued(synced):
    _, engine = synced
    sampling = SamplingParameters(max_tokens=500)
    with pytest.raises(ValueError, match=r"max_model_len 512, got 100 \+ 500"):
        engine.submit(
            GenerationRequest(request_id="x", prompt_ids=(5,) * 100, sampling=sampling, stop_token_ids=(2,), seed=0)
        )
    assert engine.poll() == []


def adapted(module: GiGPOModule, rank: int = 8, seed: int = 0):
    """The module's model with a LoRA adapter, which is not nothing, and the adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=rank, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(copy.deepcopy(module.policy.model), config)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=noise).to(DEVICE), alpha=0.2)
    tensors = peft.get_peft_model_state_dict(model)
    return model.eval(), Adapter(config=model.peft_config["default"].to_dict(), tensors=tensors)


def likelihood(model, prompt, completion, temperature=1.0):
    with torch.no_grad():
        logits = (
            model(input_ids=torch.tensor([[*prompt, *completion]], device=DEVICE)).logits[0, len(prompt) - 1 : -1].cpu()
        )
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()


def test_an_adapter_speaks_instead_of_the_weights_below_it_until_they_are_replaced(synced):
    module, engine = synced
    if module.policy.model.config.tie_word_embeddings and isinstance(engine, VLLMServerEngine):
        pytest.skip("this server was started without room for adapters")
    WeightSync().sync(module, engine)
    sequence = ((5, 6, 7), (8, 9, 10, 11))
    plain = engine.score([sequence])[0]
    for version in (100, 101):  # the second takes the place of the first
        model, adapter = adapted(module, seed=version)
        engine.load_adapter(adapter, version)
        assert engine.policy_version == version
        assert engine.score([sequence])[0] == pytest.approx(likelihood(model, *sequence), abs=tolerance(engine))
        assert engine.score([sequence])[0] != pytest.approx(plain, abs=1e-2)
        for reply in ask(engine, [1, 2, 3], temperature=0.7).values():
            expected = likelihood(model, (5, 6, 7, 8), reply.token_ids, 0.7)
            assert reply.logprobs == pytest.approx(expected, abs=tolerance(engine))
            assert reply.policy_version == version
    change(module)
    WeightSync().sync(module, engine)
    assert engine.score([sequence])[0] == pytest.approx(
        likelihood(module.policy.model, *sequence), abs=tolerance(engine)
    )


def test_an_adapter_is_proved_to_its_last_bit(synced):
    module, engine = synced
    if module.policy.model.config.tie_word_embeddings and isinstance(engine, VLLMServerEngine):
        pytest.skip("this server was started without room for adapters")
    WeightSync().sync(module, engine)
    _, adapter = adapted(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    (copy,) = engine.replicas if isinstance(engine, VLLMServerEngine) else (engine,)
    engine.load_adapter(adapter, 100)
    proof = WeightProof(shapes, [piece for piece, _ in copy.show_weights(shapes, None)], 3, adapter.scale)
    for name, tensor in adapter.tensors.items():
        proof.watch(name, tensor.to(proof.dtypes[name]))
    assert proof.differences(copy.show_weights(shapes, 3)) == []
    for version, changed in ((101, min(shapes)), (102, max(shapes))):
        tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
        tensors[changed].view(torch.int32)[-1, -1] ^= 1 << 16  # the last bit in bfloat16, too
        engine.load_adapter(Adapter(config=adapter.config, tensors=tensors), version)
        assert proof.differences(copy.show_weights(shapes, 3)) == [changed]
    WeightSync().sync(module, engine)


def test_an_adapter_that_the_engine_has_no_room_for_is_refused(synced):
    module, engine = synced
    if isinstance(engine, TransformersEngine):
        pytest.skip("Transformers takes adapters of any rank")
    with pytest.raises(
        RuntimeError, match=r"an adapter's rank must be <= the (engine's max_lora_rank|servers') \d, got 9"
    ):
        engine.load_adapter(adapted(module, rank=9)[1], 100)
    assert engine.policy_version == module.policy_version


def test_an_engine_that_has_slept_speaks_as_before(synced):
    module, engine = synced
    before = ask(engine, [1, 2])
    engine.sleep()
    engine.wake()
    WeightSync().sync(module, engine)
    after = ask(engine, [1, 2])
    assert all(alike(engine, after[name], before[name]) for name in before)
    engine.wake()  # a second call does nothing
