"""What cannot train is refused before an engine starts: optimizers, schedulers, and policies without their weights."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as schedulers

from modules import LoraPolicy, PretrainedPolicy, TinyPolicy
from modules.rehearsal import rehearse_optimization, rehearse_policy

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs" / "webshop" / "tiny_policy"


def words() -> list[str]:
    return ["left", "right"]


class TestAnOptimizer:
    @pytest.mark.parametrize(
        ("optimizer", "expected"),
        [
            (
                torch.optim.LBFGS,
                "^optimizer must take a step on dense gradients and without a closure, .* but LBFGS cannot",
            ),
            (torch.optim.SparseAdam, "but SparseAdam cannot: SparseAdam does not support dense gradients"),
            (partial(AdamW, lr=float("inf")), r"^optimizer.init_args.lr must be >= 0 and finite, got inf"),
            (partial(AdamW, weight_decay=float("inf")), r"^optimizer.init_args.weight_decay must be >= 0 and finite"),
            (partial(AdamW, eps=float("inf")), r"^optimizer.init_args.eps must be >= 0 and finite"),
            (partial(SGD, momentum=3.0), r"^optimizer.init_args.momentum must be in \[0, 1\], got 3"),
            (partial(SGD, dampening=-1.0), r"^optimizer.init_args.dampening must be >= 0"),
            (partial(SGD, lr=1e39), "but SGD cannot: value cannot be converted to type float without overflow"),
        ],
    )
    def test_that_cannot_train_is_refused(self, optimizer, expected):
        with pytest.raises(ValueError, match=expected):
            rehearse_optimization(None, optimizer, None, 40)

    @pytest.mark.parametrize("optimizer", [AdamW, SGD, torch.optim.Adafactor, torch.optim.Rprop, torch.optim.NAdam])
    def test_with_its_own_defaults_is_taken(self, optimizer):
        rehearse_optimization(TinyPolicy([words]).skeleton(), optimizer, None, 40)

    def test_is_made_for_the_policy_s_own_parameters(self):
        with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
            rehearse_optimization(TinyPolicy([words]).skeleton(), torch.optim.Muon, None, 40)


class TestAScheduler:
    @pytest.mark.parametrize(
        ("scheduler", "expected"),
        [
            (schedulers.ReduceLROnPlateau, "but ReduceLROnPlateau cannot go on to epoch 1: .*'metrics'"),
            (
                partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=10),
                "but OneCycleLR cannot go on to epoch 11: Tried to step",
            ),
            (partial(schedulers.CosineAnnealingLR, T_max=0), "but CosineAnnealingLR cannot go on to epoch 1"),
            (partial(schedulers.StepLR, step_size=0), "but StepLR cannot go on to epoch 1"),
            (partial(schedulers.StepLR, step_size=-3), "^lr_scheduler.init_args.step_size must be >= 0"),
            (partial(schedulers.ExponentialLR, gamma=-1.0), r"^lr_scheduler\.init_args\.gamma must be >= 0"),
            (
                partial(schedulers.ExponentialLR, gamma=float("nan")),
                r"^lr_scheduler\.init_args\.gamma must be >= 0 and finite, got nan",
            ),
            (partial(schedulers.ExponentialLR, gamma=1e30), "ExponentialLR makes it inf in epoch 11 with gamma 1e.30"),
            (
                partial(schedulers.CosineAnnealingLR, T_max=10, eta_min=-1.0),
                r"^lr_scheduler\.init_args\.eta_min must be >= 0",
            ),
        ],
    )
    def test_that_cannot_be_stepped_once_an_epoch_is_refused(self, scheduler, expected):
        with pytest.raises(ValueError, match=expected):
            rehearse_optimization(None, partial(SGD, lr=0.01), scheduler, 40)

    @pytest.mark.parametrize(
        "scheduler",
        [
            partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=40),
            partial(schedulers.CyclicLR, base_lr=0.01, max_lr=0.1),
            partial(schedulers.LinearLR, total_iters=10),
            partial(schedulers.CosineAnnealingWarmRestarts, T_0=5),
            partial(schedulers.MultiStepLR, milestones=[10, 20]),
        ],
    )
    def test_that_lasts_as_long_as_the_run_is_taken(self, scheduler):
        rehearse_optimization(None, partial(SGD, lr=0.01, momentum=0.9), scheduler, 40)

    def test_is_gone_through_where_a_run_has_no_end(self):
        scheduler = partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=40)
        with pytest.raises(ValueError, match="Tried to step 41 times"):
            rehearse_optimization(None, SGD, scheduler, -1)


class TestAPolicy:
    @pytest.mark.parametrize("source", [TinyPolicy([words]), PretrainedPolicy(str(SHIPPED))])
    def test_without_weights_has_the_shape_of_the_real_one(self, source):
        skeleton = source.skeleton()
        assert {each.device.type for each in skeleton.parameters()} == {"meta"}
        shapes = [
            {name: tuple(each.shape) for name, each in p.state_dict().items()} for p in (skeleton, source.build())
        ]
        assert shapes[0] == shapes[1]

    def test_needs_no_weights_on_disk(self, tmp_path):
        shutil.copytree(SHIPPED, tmp_path / "policy", ignore=shutil.ignore_patterns("*.safetensors"))
        rehearsal = rehearse_policy(PretrainedPolicy(str(tmp_path / "policy")))
        assert rehearsal.policy is not None

    def test_with_adapters_trains_them_alone(self):
        pytest.importorskip("peft")
        skeleton = LoraPolicy(TinyPolicy([words]), rank=2).skeleton()
        assert {"lora_" in name for name, each in skeleton.named_parameters() if each.requires_grad} == {True}

    def test_on_the_hub_alone_is_said_and_nothing_is_fetched(self):
        rehearsal = rehearse_policy(PretrainedPolicy("nobody/no-such-model"))
        assert rehearsal.policy is None
        assert rehearsal.said.endswith("its shape could not be checked: nobody/no-such-model is not on this disk")

    @pytest.mark.parametrize("model", ["/nowhere/at/all", "configs/webshop/nowhere", "", "a b"])
    def test_that_is_neither_on_disk_nor_on_the_hub_is_refused(self, model):
        with pytest.raises(ValueError, match=r"^policy\.init_args\.model must be a checkpoint folder or a hub name"):
            rehearse_policy(PretrainedPolicy(model))

    def test_of_a_user_s_own_without_a_skeleton_is_not_checked(self):
        class Own:
            def build(self):
                raise NotImplementedError

        assert rehearse_policy(Own()).policy is None
