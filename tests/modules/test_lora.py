"""LoRA: fresh adapters change nothing, only they learn, and what goes to the engine is what the policy computes."""

import copy

import pytest
import torch

from callbacks import WeightSync
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.rollout import TransformersEngine
from gigpo_lightning.token_batch import make_token_batch
from modules import AdaptedPolicy, GiGPOModule, LoraPolicy, TinyPolicy
from tests.devices import DEVICE, ON_DEVICE, tolerance
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, walking_data

peft = pytest.importorskip("peft")

TOKENS = make_token_batch([([3, 4], [5, 6]), ([7], [8, 9])], 0).to(DEVICE)


def source(tie_embeddings: bool = True, **options) -> LoraPolicy:
    words = [gridworld_words, gridworld_markers]
    base = TinyPolicy(words, hidden_size=16, max_length=64, tie_embeddings=tie_embeddings)
    return LoraPolicy(base, **{"rank": 2} | options)


def learnt(policy: AdaptedPolicy) -> AdaptedPolicy:
    """The same policy, after adapters have become something."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=noise).to(parameter.device)
    return policy


def test_fresh_adapters_change_nothing():
    ours, theirs = source().build().to(DEVICE), source().base.build().to(DEVICE)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS), rtol=0, atol=0)


def test_only_adapters_are_trained():
    policy = source().build()
    trained = {name for name, each in policy.named_parameters() if each.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_weights_with_the_adapters_added_say_what_the_policy_says(tie_embeddings: bool):
    policy = learnt(source(tie_embeddings).build()).to(DEVICE)
    plain = source(tie_embeddings).base.build().to(DEVICE)
    before = plain(TOKENS)[0]
    plain.model.load_state_dict(dict(policy.named_weights()))
    torch.testing.assert_close(plain(TOKENS), policy(TOKENS))
    assert (plain(TOKENS)[0] - before).abs().max() > 1e-3


def test_without_its_adapters_it_is_what_it_was():
    policy, plain = learnt(source().build()).to(DEVICE), source().base.build().to(DEVICE)
    with policy.without_adapters():
        torch.testing.assert_close(policy(TOKENS), plain(TOKENS), rtol=0, atol=0)
    assert not torch.equal(policy(TOKENS)[0], plain(TOKENS)[0])
    assert {name for name, each in policy.named_parameters() if each.requires_grad}
    torch.testing.assert_close(dict(policy.base_weights()), dict(plain.named_weights()), rtol=0, atol=0)


def test_peft_loads_what_is_given_to_an_engine(tmp_path):
    policy = learnt(source().build()).to(DEVICE)
    Adapter(config=policy.adapter_config.to_dict(), tensors=policy.adapter_tensors()).save(tmp_path)
    plain = source().base.build().to(DEVICE)
    loaded = copy.copy(plain)
    loaded.model = peft.PeftModel.from_pretrained(plain.model, tmp_path).base_model.model
    torch.testing.assert_close(loaded(TOKENS), policy(TOKENS))


def test_a_run_trains_the_adapters_alone_and_keeps_no_second_copy(tmp_path):
    settings = LossSettings(kl_coefficient=0.1)
    module = GiGPOModule(source(), GiGPO(), settings)
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=2, limit_val_batches=0, **ON_DEVICE)
    trainer.fit(module, walking_data(random_walk(module)))
    assert module.reference is None
    torch.testing.assert_close(
        dict(module.policy.base_weights()), dict(source().base.build().named_weights()), rtol=0, atol=0
    )
    assert any(matrix.abs().max() > 0 for name, matrix in module.policy.adapter_tensors().items() if "lora_B" in name)
    assert trainer.callback_metrics["loss/kl"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [True, False])
def test_the_engine_is_proved_to_have_them_either_way(adapters: bool, tmp_path):
    module = GiGPOModule(source(tie_embeddings=False), GiGPO(), optimizer=lambda each: torch.optim.AdamW(each, lr=0.03))
    engine, loads = TransformersEngine(), []
    load_weights = engine.load_weights
    engine.load_weights = lambda weights, version: (loads.append(version), load_weights(weights, version))[1]
    sync = WeightSync(adapters=adapters)
    quiet_trainer(tmp_path, sync, max_epochs=3, limit_val_batches=0, **ON_DEVICE).fit(module, walking_data(engine))
    assert loads == ([0] if adapters else [0, 1, 2])
    assert sync.metrics["sync/max_abs_logprob_error"] < tolerance(engine) / 10
    assert any(matrix.abs().max() > 0.01 for matrix in module.policy.adapter_tensors().values())


def test_adapters_beside_the_weights_need_a_policy_with_adapters(tmp_path):
    words = [gridworld_words, gridworld_markers]
    module = GiGPOModule(TinyPolicy(words, hidden_size=16, max_length=64), GiGPO())
    trainer = quiet_trainer(tmp_path, WeightSync(adapters=True), max_epochs=1, limit_val_batches=0)
    with pytest.raises(
        ValueError, match=r"adapters needs a policy from modules.LoraPolicy .*, got one without adapters"
    ):
        trainer.fit(module, walking_data(TransformersEngine()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0 and finite, got 0.0"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\], got 1.5"),
        ({"targets": ["lm_head"]}, r"targets must be among the linear layers \['down_proj', .*, got \['lm_head'\]"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        source(**options).build()
