"""Real vLLM, on whatever device there is; one start serves all tests of an architecture."""

import pytest
import torch

from callbacks.weight_sync import WeightSync, probe_error
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.rollout import GenerationRequest, SamplingParameters, VLLMEngine
from modules import GiGPOModule, TinyPolicy

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def words() -> list[str]:
    return [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module", params=["tied", "untied"])
def synced(request):
    """A module and an engine that has its weights."""
    source = TinyPolicy([words], hidden_size=64, max_length=512, tie_embeddings=request.param == "tied")
    module = GiGPOModule(source, GiGPO())
    engine = VLLMEngine(kv_cache_gib=0.125)
    WeightSync().sync(module, engine)
    yield module, engine
    engine.close()


def change(module: GiGPOModule) -> None:
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    module.policy_version += 1


def ask(engine: VLLMEngine, seeds: list[int], temperature: float = 1.0, prompt=(5, 6, 7, 8)) -> dict:
    for seed in seeds:
        engine.submit(
            GenerationRequest(
                request_id=str(seed),
                prompt_ids=prompt,
                sampling=SamplingParameters(temperature=temperature, max_tokens=8),
                stop_token_ids=(2,),
                seed=seed,
            )
        )
    completions = {}
    while len(completions) < len(seeds):
        completions |= {completion.request_id: completion for completion in engine.poll()}
    return completions


def test_a_sync_brings_new_weights_to_the_engine(synced):
    module, engine = synced
    for _ in range(3):
        change(module)
        sync = WeightSync()
        sync.sync(module, engine)
        assert sync.metrics["sync/max_abs_logprob_error"] < 1e-4
        assert engine.policy_version == module.policy_version


def test_without_a_sync_the_probes_tell(synced):
    module, engine = synced
    WeightSync().sync(module, engine)
    change(module)
    probes = WeightSync()._probes(module.policy)
    assert probe_error(module.policy, engine, probes) > 1e-2
    WeightSync().sync(module, engine)


@pytest.mark.parametrize("skipped", ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_sync_that_leaves_a_tensor_behind_stops_the_run(synced, skipped, monkeypatch):
    module, engine = synced
    load = engine.load_weights

    def forgetful(named_tensors, version):
        old = {skipped: torch.zeros_like(dict(module.policy.named_weights())[skipped])}
        load([(name, old.get(name, tensor)) for name, tensor in named_tensors], version)

    change(module)
    monkeypatch.setattr(engine, "load_weights", forgetful)
    with pytest.raises(RuntimeError, match="must agree on every probe token's log-probability"):
        WeightSync().sync(module, engine)
    monkeypatch.undo()
    change(module)
    WeightSync().sync(module, engine)


def test_the_sampled_logprobs_are_the_trainers(synced):
    module, engine = synced
    temperature = 0.7
    for completion in ask(engine, list(range(6)), temperature).values():
        ids = torch.tensor([[5, 6, 7, 8, *completion.token_ids]])
        written = torch.zeros_like(ids, dtype=torch.bool)
        written[:, 4:] = True
        with torch.no_grad():
            ours, _ = module.policy(ids, torch.ones_like(ids), written, temperature)
        assert torch.allclose(ours[0, 4:], torch.tensor(completion.logprobs), atol=1e-4)


def test_a_reply_depends_on_its_seed_and_not_on_its_company(synced):
    _, engine = synced
    alone = ask(engine, [11])["11"]
    together = ask(engine, [3, 11, 4, 5, 6])
    assert alone.token_ids == together["11"].token_ids
    assert len({completion.token_ids for completion in together.values()}) > 1


def test_temperature_0_takes_the_most_likely_token(synced):
    _, engine = synced
    assert len({completion.token_ids for completion in ask(engine, [1, 2, 3], temperature=0.0).values()}) == 1


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
    input_ids = torch.tensor([[*prompt, *after.token_ids]])
    written = torch.zeros_like(input_ids, dtype=torch.bool)
    written[:, len(prompt) :] = True
    with torch.no_grad():
        expected, _ = module.policy(input_ids, torch.ones_like(input_ids), written)
    assert after.logprobs == pytest.approx(expected[0, len(prompt) :].tolist(), abs=1e-4)


def test_a_prompt_longer_than_the_context_is_refused_before_it_is_queued(synced):
    _, engine = synced
    sampling = SamplingParameters(max_tokens=500)
    with pytest.raises(ValueError, match=r"max_model_len 512, got 100 \+ 500"):
        engine.submit(
            GenerationRequest(request_id="x", prompt_ids=(5,) * 100, sampling=sampling, stop_token_ids=(2,), seed=0)
        )
    assert engine.poll() == []
