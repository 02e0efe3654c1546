"""Behaviour cloning: the warm start."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import HeldOutEvaluation
from datamodules import DemonstrationDataModule
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.imitation import ExpertDemonstrations
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters, TransformersEngine
from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from modules import BehaviourCloningModule, LoraPolicy, Policy, PretrainedPolicy, TinyPolicy
from tests.devices import ON_DEVICE
from tests.gridworld_expert import GreedyExpert


def tiny(tie_embeddings: bool = True) -> TinyPolicy:
    return TinyPolicy(
        [gridworld_words, gridworld_markers], hidden_size=64, num_heads=2, max_length=64, tie_embeddings=tie_embeddings
    )


def demonstrations(episodes_per_task: int = 4) -> DemonstrationDataModule:
    expert = ExpertDemonstrations(
        GridworldEnvironment(),
        GridworldTasks(size=4, num_walls=0),
        GreedyExpert(),
        GridworldPrompt(),
        episodes_per_task=episodes_per_task,
        max_steps=6,
    )
    return DemonstrationDataModule(expert, batch_size=32)


def fit(folder: Path, tie_embeddings: bool = True, max_epochs: int = 6) -> tuple[BehaviourCloningModule, Trainer]:
    torch.manual_seed(0)
    module = BehaviourCloningModule(
        tiny(tie_embeddings), learning_rate=1e-3, warm_up_steps=20, output_folder=str(folder / "policy")
    )
    trainer = Trainer(
        default_root_dir=folder,
        **ON_DEVICE,
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, demonstrations())
    return module, trainer


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BehaviourCloningModule, Trainer]:
    folder = tmp_path_factory.mktemp("cloning")
    return folder, *fit(folder)


def batch_of(policy: Policy, prompt: str, reply: str) -> TokenBatch:
    tokenizer = policy.tokenizer
    pair = (tokenizer.encode(prompt), (*tokenizer.encode(reply), tokenizer.end_token_id))
    return make_token_batch([pair], tokenizer.pad_token_id)


def logprobs(policy: Policy, prompt: str, reply: str) -> torch.Tensor:
    batch = batch_of(policy, prompt, reply)
    with torch.no_grad():
        values: torch.Tensor = policy(batch)[0]
    return values


@pytest.mark.slow
def test_the_expert_is_copied_on_tasks_that_were_never_shown(
    fitted: tuple[Path, BehaviourCloningModule, Trainer],
) -> None:
    metrics = fitted[2].callback_metrics
    assert metrics["cloning/held_out_command_probability"] > 0.8


def test_a_random_policy_is_far_from_that() -> None:
    policy = tiny().build()
    assert logprobs(policy, "you 0 0 goal 2 0 walls up left <act>", "down").sum().exp() < 0.05


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.slow
def test_the_written_folder_holds_the_trained_policy(tmp_path: Path, tie_embeddings: bool) -> None:
    module, _ = fit(tmp_path, tie_embeddings, max_epochs=1)
    loaded = PretrainedPolicy(str(tmp_path / "policy")).build()
    prompt = "you 0 0 goal 2 0 walls up left <act>"
    assert torch.equal(logprobs(loaded, prompt, "down"), logprobs(module.policy, prompt, "down"))


@pytest.mark.slow
def test_weights_are_written_as_safetensors(fitted: tuple[Path, BehaviourCloningModule, Trainer]) -> None:
    assert (fitted[0] / "policy" / "model.safetensors").is_file()


def test_the_loss_is_of_the_reply_only() -> None:
    module = BehaviourCloningModule(tiny())
    policy = module.policy
    batch = batch_of(policy, "you 0 0 goal 2 0 walls up left <act>", "down")
    expected = -logprobs(policy, "you 0 0 goal 2 0 walls up left <act>", "down").sum() / 2  # the word and the end
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    module = BehaviourCloningModule(tiny())
    with torch.no_grad():
        next(module.policy.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss must be finite, got nan in epoch 0, batch 7"):
        module.training_step(batch_of(module.policy, "you <act>", "up"), 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and finite, got 0.0"),
        ({"warm_up_steps": -1}, "warm_up_steps must be >= 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0, got -0.1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BehaviourCloningModule(tiny(), **arguments)


@pytest.mark.slow
def test_training_without_a_warm_up_is_possible(tmp_path: Path) -> None:
    module = BehaviourCloningModule(tiny(), warm_up_steps=0)
    trainer = Trainer(
        default_root_dir=tmp_path,
        **ON_DEVICE,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, demonstrations())
    assert trainer.global_step == 2


def test_an_epoch_says_ten_times_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    module = BehaviourCloningModule(tiny())
    module._trainer = cast("Any", SimpleNamespace(num_training_batches=20, current_epoch=0))
    with caplog.at_level(logging.INFO, "modules"):
        for number in range(20):
            module.on_train_batch_end({"loss": torch.tensor(1.5)}, cast("Any", None), number)
    assert len(caplog.messages) == 10
    assert caplog.messages[0].startswith("epoch 0: batch 2 of 20, loss 1.500, ")


def test_a_slow_epoch_says_more_often_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, seconds = BehaviourCloningModule(tiny()), iter(range(0, 10_000, 40))
    module._trainer = cast("Any", SimpleNamespace(num_training_batches=200, current_epoch=0))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    module.on_train_epoch_start()
    with caplog.at_level(logging.INFO, "modules"):
        module.on_train_batch_start(cast("Any", None), 0)
        module.on_train_batch_end({"loss": torch.tensor(1.5)}, cast("Any", None), 0)
    assert caplog.messages == ["epoch 0: batch 1 of 200, loss 1.500, 7960 s left"]


def test_an_epoch_that_goes_on_counts_the_time_of_its_own_batches(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, seconds = BehaviourCloningModule(tiny()), iter(range(1000, 10_000, 40))
    module._trainer = cast("Any", SimpleNamespace(num_training_batches=200, current_epoch=0))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    with caplog.at_level(logging.INFO, "modules"):  # Lightning does not start an epoch again within it
        module.on_train_batch_start(cast("Any", None), 149)
        module.on_train_batch_end({"loss": torch.tensor(1.5)}, cast("Any", None), 149)
    assert caplog.messages == ["epoch 0: batch 150 of 200, loss 1.500, 2000 s left"]


def resumable(folder: Path, checkpoint: Path | None = None) -> BehaviourCloningModule:
    """A run of two epochs, which keeps the checkpoint of its fifth update, in the middle of an epoch."""
    torch.manual_seed(0)
    module = BehaviourCloningModule(tiny(), learning_rate=1e-3)
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    trainer = Trainer(
        default_root_dir=folder,
        **ON_DEVICE,
        max_epochs=2,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, demonstrations(episodes_per_task=1), ckpt_path=checkpoint)
    return module


@pytest.mark.slow
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_ends_as_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole")
    resumed = resumable(tmp_path / "resumed", tmp_path / "whole" / "step=5.ckpt")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.slow
def test_held_out_tasks_are_played_before_and_after(tmp_path: Path) -> None:
    data = demonstrations()
    player = RolloutPlayer(
        GridworldEnvironment(),
        GridworldTasks(size=4, num_walls=0),
        GridworldPrompt(),
        TransformersEngine(),
        sampling=SamplingParameters(max_tokens=1),
        max_steps=8,
        held_out_tasks=8,
        workers=0,
    )
    data = DemonstrationDataModule(data.demonstrations, player, batch_size=32)
    counted = HeldOutEvaluation()
    trainer = Trainer(
        default_root_dir=tmp_path,
        **ON_DEVICE,
        max_epochs=6,
        callbacks=[counted],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=-1,
        check_val_every_n_epoch=6,
    )
    torch.manual_seed(0)
    trainer.fit(BehaviourCloningModule(tiny(), learning_rate=2e-3, warm_up_steps=5), data)
    (first, before), (last, after) = counted.evaluations["valid_seen"]
    assert (first, last) == (0, trainer.global_step)
    assert sum(after.values()) > sum(before.values())
    assert trainer.callback_metrics["held_out/valid_seen/success_rate"] == sum(after.values()) / len(after)


@pytest.mark.slow
def test_beside_adapters_a_checkpoint_holds_them_alone() -> None:
    pytest.importorskip("peft")
    module = BehaviourCloningModule(LoraPolicy(tiny(), rank=2))
    module.configure_model()
    assert {"lora_" in name for name in module.state_dict()} == {True}
    assert not module.strict_loading
