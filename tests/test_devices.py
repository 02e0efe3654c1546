"""What a GPU would not forgive, shown without one: where tensors lie, and where an engine computes."""

import contextlib
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.distributed
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loops import utilities
from lightning.pytorch.strategies import DDPStrategy
from torch.overrides import TorchFunctionMode

from callbacks import AnchorStats, HeldOutEvaluation, RolloutMetrics
from gigpo_lightning.algorithm import GiGPO, TruncatedCorrection
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.engines import vllm as vllm_engine
from gigpo_lightning.engines.vllm_device import on_this_device
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.errors import RunError
from gigpo_lightning.interruption import never
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.rollout import VLLMEngine
from modules import FSDP2Strategy, GiGPOModule, TinyPolicy
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, walking_data

DEVICE = torch.device("cpu", 0)  # the run's own: beside it, a plain "cpu" is another device's name for the same memory
COLLECTIVES = ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor")


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job of one process, as ``ddp`` with one device is, whose device has a name of its own."""
    monkeypatch.setattr(CPUAccelerator, "get_parallel_devices", staticmethod(lambda devices: [DEVICE] * devices))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Origins(TorchFunctionMode):
    """Follows what has been taken to a CPU through every operation, until it is brought to the run's device."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        given = [*arguments, *keywords.values()]
        name = getattr(function, "__name__", "")
        # A device that is asked of another tensor would be that tensor's on a GPU as well: it tells nothing.
        if name == "cpu" or (name == "to" and any(isinstance(each, str) and each == "cpu" for each in given)):
            mark(result, True)
        elif name == "to" and DEVICE in given:
            mark(result, False)
        elif any(came_from_a_cpu(each) for each in flat(given)):
            for each in flat([result]):
                mark(each, True)
        return result


def mark(value: object, taken: bool) -> None:
    if isinstance(value, torch.Tensor):
        value.taken_to_a_cpu = taken  # type: ignore[attr-defined]


def came_from_a_cpu(value: object) -> bool:
    return isinstance(value, torch.Tensor) and getattr(value, "taken_to_a_cpu", False)


def flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def tiny_module(**options) -> GiGPOModule:
    source = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=16, max_length=64)
    return GiGPOModule(source, GiGPO(), **options)


def test_origins_are_followed_through_operations_and_back():
    with Origins():
        there = torch.ones(3).cpu()
        assert came_from_a_cpu(there)
        assert came_from_a_cpu(torch.stack([there * 2, torch.ones(3)])[0])
        assert came_from_a_cpu(torch.ones(2).to("cpu").sum())
        assert not came_from_a_cpu(there.to(DEVICE) + torch.ones(3).to(DEVICE))
        assert not came_from_a_cpu(torch.ones(3))


@pytest.mark.slow
@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("correction", [None, TruncatedCorrection()])
def test_nothing_that_was_taken_to_a_cpu_is_reduced_over_the_ranks(tmp_path, monkeypatch, correction):
    asked: list[str] = []

    def refusing(name, call):
        def collective(*arguments, **keywords):
            asked.append(name)
            taken = [each for each in flat([*arguments, *keywords.values()]) if came_from_a_cpu(each)]
            assert not taken, f"{name} is given what came from .cpu(): on GPUs, NCCL has no backend for it"
            return call(*arguments, **keywords)

        return collective

    for name in COLLECTIVES:
        monkeypatch.setattr(torch.distributed, name, refusing(name, getattr(torch.distributed, name)))
    monkeypatch.setattr(DDPStrategy, "reduce", refusing("reduced", DDPStrategy.reduce))
    log = LightningModule.log

    def logged(self, name, value, *arguments, **keywords):
        if keywords.get("sync_dist"):
            asked.append(name)
            assert not came_from_a_cpu(value), f"{name} is logged with sync_dist and came from .cpu()"
        log(self, name, value, *arguments, **keywords)

    monkeypatch.setattr(LightningModule, "log", logged)
    module = tiny_module(loss=LossSettings(kl_coefficient=0.1, importance_correction=correction))
    callbacks = (ScriptedSync(), AnchorStats(), RolloutMetrics(), HeldOutEvaluation())
    trainer = quiet_trainer(tmp_path, *callbacks, strategy="ddp", devices=1, max_epochs=1)
    with Origins():
        trainer.fit(module, walking_data(random_walk(tiny_module())))
    assert {"all_reduce", "reduced", "loss/policy", "loss/gradient_norm"} <= set(asked)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_sharded_weights_are_evaluated_without_inference_mode_as_nccl_would_have_it(tmp_path, monkeypatch, verb):
    modes: list[bool] = []

    class Asking(ScriptedSync):
        """Asks for what a weight sync does: every weight gathered, then a score."""

        def sync(self, policy, engine, should_stop=never):
            modes.append(torch.is_inference_mode_enabled())
            assert all(torch.isfinite(weight).all() for _, weight in policy.named_weights())
            super().sync(policy, engine, should_stop)

    monkeypatch.setattr(utilities, "dist", SimpleNamespace(get_backend=lambda: "nccl"))
    module = tiny_module()
    trainer = quiet_trainer(tmp_path, Asking(), strategy="fsdp2", devices=1)
    getattr(trainer, verb)(module, walking_data(random_walk(tiny_module())))
    assert modes
    assert not any(modes)


def test_offloaded_shares_stay_while_the_module_computes_on_its_device():
    strategy = FSDP2Strategy(cpu_offload=True)
    strategy.parallel_devices = [torch.device("meta")]
    strategy.cluster_environment = LightningEnvironment()
    module = tiny_module()
    strategy._model = module
    module.configure_model()
    strategy.model_to_device()
    assert module.device == torch.device("meta")  # batches, sums and logged numbers are put there
    assert {weight.device.type for weight in module.parameters()} == {"cpu"}
    assert {buffer.device.type for buffer in module.buffers()} == {"meta"}  # else embeddings would meet two devices


@pytest.mark.slow
@pytest.mark.usefixtures("one_rank")
def test_offloaded_shares_train_as_others_do(tmp_path):
    weights = []
    for number, strategy in enumerate(("auto", FSDP2Strategy(cpu_offload=True))):
        module = tiny_module()
        trainer = quiet_trainer(
            tmp_path, ScriptedSync(), strategy=strategy, devices=1, max_epochs=1, limit_val_batches=0
        )
        trainer.fit(module, walking_data(random_walk(tiny_module())))
        weights.append({name: weight.clone() for name, weight in module.named_weights()})
        assert module.policy_version > 0, number
    whole, offloaded = weights
    torch.testing.assert_close(offloaded, whole, rtol=0, atol=1e-6)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two ranks, whose device is the third of a machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("before", [None, "0"])
def test_an_engine_is_told_the_device_by_a_variable_that_is_put_back(monkeypatch, before):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "0")
    if before is not None:
        monkeypatch.setenv("LOCAL_RANK", before)
    devices = [torch.device("cuda", 2), torch.device("cuda", 3)]
    strategy = DDPStrategy(parallel_devices=devices, cluster_environment=LightningEnvironment())
    seen = []
    with contextlib.suppress(ZeroDivisionError), on_this_device():
        seen.append(os.environ["LOCAL_RANK"])
        raise ZeroDivisionError  # an engine that does not start
    assert seen == ["2"]
    assert os.environ.get("LOCAL_RANK") == before
    assert strategy.root_device == devices[0]
    assert vllm_engine._among_ranks() == {"distributed_executor_backend": "external_launcher"}
    assert strategy.root_device == devices[0]


@pytest.mark.parametrize(("visible", "name"), [(None, "1"), ("4,6", "6")])
def test_one_process_on_another_device_than_the_engine_takes_is_told_what_to_set(monkeypatch, visible, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(RunError, match=f"CUDA_VISIBLE_DEVICES={name} and --trainer.devices 1"), on_this_device():
        raise AssertionError("no engine may be made")


@pytest.mark.parametrize("options", [{"tensor_parallel_size": 2}, {"options": {"pipeline_parallel_size": 2}}])
def test_an_engine_in_process_is_on_one_device(options):
    name = next(iter(options.get("options", options)))
    with pytest.raises(ValueError, match=rf"{name} must be 1 .* got 2: .*gigpo-server"):
        VLLMEngine(**options)
