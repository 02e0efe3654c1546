"""A policy whose blocks are compiled is the same policy."""

import copy
import shutil

import pytest
import torch
from torch import Tensor

from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import plan_micro_batches, token_trees
from modules import Policy, PretrainedPolicy

FOLDER = "configs/alfworld/tiny_policy"
PAIRS = [((task, *range(2, length)), (7, 3, reply)) for task in (1, 2) for length in (9, 30) for reply in (4, 5)]


def gradients(policy: Policy, mixed: bool) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for rows in plan_micro_batches(token_trees(PAIRS), 40, policy.row_rules):
            logprobs, entropy = policy(make_token_batch(PAIRS, 0, rows))
            (logprobs.sum() + 0.1 * entropy.sum()).backward()
    return {name: each.grad.clone() for name, each in policy.named_parameters() if each.grad is not None}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bf16-mixed"])
def test_a_compiled_policy_has_the_weights_names_and_gradients_of_a_plain_one(
    mixed, tmp_path, monkeypatch, repository_root
):
    monkeypatch.chdir(repository_root)
    plain, compiled = (PretrainedPolicy(FOLDER, compile=wanted).build().train() for wanted in (False, True))
    assert [each._compiled_call_impl is not None for each in plain.blocks + compiled.blocks] == [False] * 2 + [True] * 2
    assert [name for name, _ in compiled.named_weights()] == [name for name, _ in plain.named_weights()]
    expected, found = gradients(plain, mixed), gradients(compiled, mixed)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    copy.deepcopy(compiled).save_pretrained(tmp_path)  # a frozen reference is such a copy
    kept = PretrainedPolicy(str(tmp_path)).build().state_dict()
    assert all(map(torch.equal, kept.values(), plain.state_dict().values()))


def test_without_a_compiler_it_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="compile must be false without a C\\+\\+ compiler on PATH"):
        PretrainedPolicy(FOLDER, compile=True)


def test_where_the_compiler_is_switched_off_it_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    with pytest.raises(ValueError, match="compile must be false where TORCHDYNAMO_DISABLE=1 switches"):
        PretrainedPolicy(FOLDER, compile=True)
