"""QLoRA: adapters beside weights of four bits, where bitsandbytes works; elsewhere one clear refusal."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.token_batch import make_token_batch
from modules import AdaptedPolicy, LoraPolicy, PretrainedPolicy, TinyPolicy

pytest.importorskip("peft")
TOKENS = make_token_batch([([3, 4], [5, 6]), ([7], [8, 9])], 0)


@pytest.fixture
def policy() -> AdaptedPolicy:
    """Adapters that are not nothing, beside four bits."""
    pytest.importorskip("bitsandbytes")
    base = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=64, max_length=64)
    made = LoraPolicy(base, rank=2, quantization="nf4").build()
    assert isinstance(made, AdaptedPolicy)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in made.adapted_layers():
            weight = layer.lora_B["default"].weight
            weight.copy_(torch.randn(weight.shape, generator=noise) * 0.1)
    return made


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(ImportError, match="needs bitsandbytes, which is not installed"):
        LoraPolicy(TinyPolicy([gridworld_words]), quantization="nf4")


def test_a_bitsandbytes_that_does_not_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("raise OSError('no library for this machine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"which does not work on this machine \(no library for this machine\)"):
        LoraPolicy(TinyPolicy([gridworld_words]), quantization="nf4")


def test_weights_are_kept_in_four_bits_and_adapters_learn(policy: AdaptedPolicy) -> None:
    trained = {name for name, each in policy.named_parameters() if each.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    layer = next(layer for _, layer in policy.adapted_layers())
    assert layer.base_layer.weight.dtype == torch.uint8
    (-policy(TOKENS)[0].sum()).backward()
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0


def test_the_engine_is_given_what_the_four_bits_stand_for(policy: AdaptedPolicy) -> None:
    plain = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=64, max_length=64).build()
    assert policy.weight_shapes() == plain.weight_shapes()
    weights = dict(policy.named_weights())
    assert {name: tuple(each.shape) for name, each in weights.items()} == plain.weight_shapes()
    plain.model.load_state_dict(weights)
    torch.testing.assert_close(plain(TOKENS)[0], policy(TOKENS)[0], rtol=1e-3, atol=1e-3)


def test_what_is_exported_is_a_plain_folder(policy: AdaptedPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    loaded = PretrainedPolicy(str(tmp_path)).build()
    torch.testing.assert_close(loaded(TOKENS)[0], policy(TOKENS)[0], rtol=1e-3, atol=1e-3)


def test_sharded_weights_are_not_quantized() -> None:
    pytest.importorskip("bitsandbytes")
    source = LoraPolicy(TinyPolicy([gridworld_words]), quantization="nf4")
    with pytest.raises(ValueError, match=r"quantization must be left out where weights are sharded .*, got 'nf4'"):
        source.unloaded()
