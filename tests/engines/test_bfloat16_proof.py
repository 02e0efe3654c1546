"""A real vLLM in bfloat16, whose linear layers keep packed weights: what was not taken is noticed, to the last bit."""

import pytest
import torch

from callbacks import WeightSync
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.engines.weight_proof import WeightProof
from gigpo_lightning.engines.weight_stream import WeightStream
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import VLLMEngine
from gigpo_lightning.rollout.sync import ProvedSync, probe_errors
from modules import GiGPOModule, TinyPolicy

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def words() -> list[str]:
    return [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module", params=["tied", "untied"])
def synced(request):
    """A float32 trainer beside a bfloat16 engine, as on GPUs."""
    module = GiGPOModule(TinyPolicy([words], hidden_size=64, tie_embeddings=request.param == "tied"), GiGPO())
    engine = VLLMEngine(kv_cache_gib=0.125, dtype="bfloat16")
    WeightSync().sync(module, engine)
    yield module, engine
    engine.close()


def proof_of(module: GiGPOModule, engine: VLLMEngine) -> WeightProof:
    """What the engine must hold of the module's weights."""
    shapes = module.weight_shapes()
    proof = WeightProof(shapes, [piece for piece, _ in engine.show_weights(shapes, None)], seed=5)
    for _ in WeightStream(shapes, module.named_weights, proof.dtypes, proof.watch):
        pass
    return proof


def cast(module: GiGPOModule) -> dict[str, torch.Tensor]:
    """The weights in the engine's type."""
    return {name: weight.to(torch.bfloat16, copy=True) for name, weight in module.named_weights()}


def found(proof: WeightProof, engine: VLLMEngine) -> list[str]:
    return proof.differences(engine.show_weights(proof.shapes, proof.seed))


def one_by_one(module: GiGPOModule, names: list[str]) -> list[str]:
    """Those that can be sent alone: a head that is the embedding may be taken from it."""
    ties = module.policy.model.config.tie_word_embeddings
    return [name for name in names if not (ties and name == "lm_head.weight")]


def test_each_weight_that_was_not_taken_is_noticed_where_log_probabilities_are_blind(synced):
    module, engine = synced
    before = cast(module)
    optimizer = torch.optim.AdamW(module.policy.parameters(), lr=1e-6)
    probes = ProvedSync().probes(module.vocabulary_size)
    for parameter in module.policy.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    engine.load_weights(before.items(), 100)
    assert probe_errors(module, engine, probes).max() < 0.5  # what once decided
    after, proof = cast(module), proof_of(module, engine)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")
    assert all(any(kind in name for name in changed) for kind in kinds)
    assert found(proof, engine) == sorted(changed)
    engine.load_weights(after.items(), 101)
    assert found(proof, engine) == []
    for stale in one_by_one(module, changed):
        engine.load_weights((after | {stale: before[stale]}).items(), 102)
        assert stale in found(proof, engine)


def test_the_last_bit_of_one_number_of_each_tensor_is_noticed(synced):
    module, engine = synced
    weights, proof = cast(module), proof_of(module, engine)
    for name in one_by_one(module, list(weights)):
        other = weights[name].clone()
        other.view(torch.int16).view(-1)[-1] ^= 1
        engine.load_weights((weights | {name: other}).items(), 100)
        assert set(found(proof, engine)) - {"lm_head.weight"} == {name} - {"lm_head.weight"}
        assert name in found(proof, engine)


def test_a_head_that_was_not_packed_again_is_noticed_although_its_weights_are_new(synced):
    module, engine = synced
    engine.load_weights(cast(module).items(), 100)
    proof = proof_of(module, engine)
    assert found(proof, engine) == []
    (head,) = engine._llm.collective_rpc(lambda worker: worker.model_runner.get_model().lm_head)
    packed, stale = head.cpu_linear, head.weight.clone()
    stale.view(torch.int16)[3, 3] ^= 1
    head.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, stale, bias)
    assert found(proof, engine) == ["lm_head.weight"]
    head.cpu_linear = packed


def test_the_run_ends_where_the_engine_keeps_a_prefix_of_older_weights(synced, monkeypatch):
    module, engine = synced
    module.policy_version += 1
    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
        with pytest.raises(RunError, match="vLLM must forget every prefix that it read before the weights of version"):
            WeightSync().sync(module, engine)
    assert engine.policy_version == -1
    WeightSync().sync(module, engine)


def test_a_sync_logs_how_far_the_kernels_differ(synced):
    module, engine = synced
    sync = WeightSync()
    module.policy_version += 1
    sync.sync(module, engine)
    mean, p99, most = (sync.metrics[f"sync/{name}_abs_logprob_error"] for name in ("mean", "p99", "max"))
    assert 0 < mean < p99 <= most < 0.5
