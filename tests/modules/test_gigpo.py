"""One training step is one optimizer step on one minibatch, however it is split, and nothing bad gets through."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from gigpo_lightning.algorithm import Credit, GiGPO, HoelderRatio, HoelderTokens, TruncatedCorrection
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.trajectory import StepTable
from modules import GiGPOModule, TinyPolicy
from tests import resume_run
from tests.devices import ON_DEVICE, gradient_tolerance
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, walking_data


class BrokenGiGPO(GiGPO):
    """Gives one step of the second rollout an advantage that is not a number."""

    rollouts = 0

    def estimate(self, table: StepTable) -> Credit:
        credit = super().estimate(table)
        self.rollouts += 1
        if self.rollouts < 2:
            return credit
        advantage = credit.advantage.copy()
        advantage[3] = np.nan
        return replace(credit, advantage=advantage)


class Gradients(Callback):
    """Keeps the gradient of every update."""

    def __init__(self):
        self.kept = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.kept.append(torch.cat([p.grad.flatten().clone() for p in pl_module.policy.parameters()]))


def make_module(credit=None, **options) -> GiGPOModule:
    source = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=16, max_length=64)
    return GiGPOModule(source, credit or GiGPO(), **options)


def fit(module, folder, *callbacks, data=None, **options):
    defaults = {"max_epochs": 1, "limit_val_batches": 0} | ON_DEVICE | options
    trainer = quiet_trainer(folder, ScriptedSync(), *callbacks, **defaults)
    trainer.fit(module, walking_data(random_walk(module), **data or {}))
    return trainer


def weights(module: GiGPOModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.policy.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["token", "step", "sequence", "trajectory"])
def test_splitting_a_minibatch_changes_no_gradient(tmp_path, aggregation):
    gradients = []
    for tokens in (64, 100_000):
        keeper = Gradients()
        module = make_module(loss=LossSettings(aggregation=aggregation, kl_coefficient=0.1, entropy_coefficient=0.01))
        fit(module, tmp_path, keeper, data={"micro_batch_tokens": tokens})
        gradients.append(keeper.kept)
    (split,), (whole,) = gradients
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(split, whole, **gradient_tolerance())


@pytest.mark.parametrize("by", ["steps", "episodes"])
def test_an_epoch_logs_the_tokens_of_its_updates(tmp_path, by):
    module = make_module()
    counted = []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            counted.append(batch.token_counts)

    trainer = fit(module, tmp_path, Count(), data={"minibatch_size": 16, "minibatch_by": by})
    assert len(counted) > 1
    computed = sum(counts.computed for counts in counted)
    assert trainer.callback_metrics["update/tokens"] == computed
    assert trainer.callback_metrics["update/distinct_tokens"] == sum(counts.distinct for counts in counted) <= computed
    rows = sum(counts.of_rows for counts in counted)
    assert trainer.callback_metrics["update/sharing"] == pytest.approx(rows / computed)


class RememberingGiGPO(GiGPO):
    """Counts its rollouts and keeps the last rewards, as users would: in an array, by a key that is a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = {"rollouts": 0, "rewards": {("last", 0): np.zeros(0)}, "note": ["a", None, 1.5]}

    def estimate(self, table: StepTable) -> Credit:
        self.memory["rollouts"] += 1
        self.memory["rewards"] = {("last", 0): table.reward}
        credit = super().estimate(table)
        return replace(credit, advantage=credit.advantage / self.memory["rollouts"])

    def state_dict(self):
        return self.memory

    def load_state_dict(self, state):
        self.memory = state


def test_what_an_estimator_cannot_keep_is_refused_when_it_is_saved(tmp_path):
    estimator = RememberingGiGPO()
    estimator.memory["graph"] = {1, 2}
    module = make_module(estimator)
    trainer = fit(module, tmp_path)
    with pytest.raises(TypeError, match=r"RememberingGiGPO.state_dict must hold numbers, .* got a set"):
        trainer.save_checkpoint(tmp_path / "never.ckpt")


@pytest.mark.slow
def test_what_an_estimator_remembers_goes_through_the_checkpoint(tmp_path):
    def run(estimator, **options):
        module = make_module(estimator)
        resumed = options.pop("ckpt_path", None)
        trainer = quiet_trainer(tmp_path, ScriptedSync(), limit_val_batches=0, **ON_DEVICE, **options)
        trainer.fit(module, walking_data(random_walk(module)), ckpt_path=resumed)
        return trainer, module

    _, whole = run(RememberingGiGPO(), max_epochs=3)
    trainer, _ = run(RememberingGiGPO(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    estimator = RememberingGiGPO()
    run(estimator, max_epochs=3, ckpt_path=tmp_path / "two.ckpt")
    assert estimator.memory["rollouts"] == whole.credit.memory["rollouts"] == 3
    np.testing.assert_array_equal(estimator.memory["rewards"]["last", 0], whole.credit.memory["rewards"]["last", 0])
    assert estimator.memory["note"] == ["a", None, 1.5]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_importance_correction_takes_ratios_to_the_trainer_s_own_probabilities(tmp_path, precision):
    module = make_module(loss=LossSettings(importance_correction=TruncatedCorrection(2.0)))
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                for part in batch.micro_batches:
                    logprobs, _ = module.policy(part.tokens.to(module.device), 1.0)
                    seen.append((logprobs.cpu(), part.old_logprobs, part.engine_logprobs))

    trainer = fit(module, tmp_path, Look(), precision=precision)
    for logprobs, old, engine in seen:
        torch.testing.assert_close(old, logprobs)
        assert not torch.equal(old, engine)  # the script claims certainty
    assert {"loss/engine_kl", "loss/correction_weight", "loss/corrected_fraction"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["loss/approximate_kl"] == pytest.approx(0.0, abs=1e-6)


def test_without_a_correction_nothing_is_computed_twice(tmp_path):
    module = make_module()
    assert not module.rescores
    assert "loss/engine_kl" not in fit(module, tmp_path).callback_metrics


@pytest.mark.slow
def test_a_scheduled_ratio_follows_the_training(tmp_path):
    seen = []

    class Noting(HoelderRatio):
        def log_ratio(self, log_ratio, action_mask, progress):
            seen.append(self.exponent_at(progress))
            return super().log_ratio(log_ratio, action_mask, progress)

    fit(make_module(loss=LossSettings(ratio=Noting(1.0, -1.0))), tmp_path, max_epochs=4)
    assert sorted(set(seen), reverse=True) == pytest.approx([1.0, 1 / 3, -1 / 3, -1.0])


def test_an_estimator_s_clip_ranges_and_the_exponent_of_a_surrogate_reach_the_loss(tmp_path):
    seen = []

    class Noting(HoelderTokens):
        def objective(self, log_ratio, advantage, action_mask, clip_low, clip_high, progress):
            seen.append((clip_low, self.exponent_at(progress)))
            return super().objective(log_ratio, advantage, action_mask, clip_low, clip_high, progress)

    class Wider(GiGPO):
        def estimate(self, table):
            return replace(super().estimate(table), clip_scale=np.full(len(table), 1.5))

    fit(make_module(Wider(), loss=LossSettings(surrogate=Noting(1.0, -1.0))), tmp_path, max_epochs=3)
    assert {exponent for _, exponent in seen} == {1.0, 0.0, -1.0}
    for clip_low, _ in seen:
        torch.testing.assert_close(clip_low.cpu(), torch.full((len(clip_low), 1), 0.3))


def test_gradients_are_scaled_down_to_their_largest_norm(tmp_path):
    keeper = Gradients()
    fit(make_module(max_grad_norm=1e-3), tmp_path, keeper)
    assert keeper.kept[0].norm().item() == pytest.approx(1e-3, rel=1e-4)


def test_freed_memory_goes_back_before_each_rollout(tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr("modules.gigpo.give_memory_back", lambda: given_back.append(module.policy_version))
    module = make_module()
    fit(module, tmp_path, max_epochs=2, data={"minibatch_size": None})
    assert given_back == [0, 1]


@pytest.mark.slow
def test_every_update_makes_a_new_version(tmp_path):
    module = make_module()
    trainer = fit(module, tmp_path, max_epochs=2, data={"minibatch_size": 16})
    assert module.policy_version == trainer.global_step >= 2


@pytest.mark.slow
def test_the_reference_stays_what_the_policy_was(tmp_path):
    module = make_module(loss=LossSettings(kl_coefficient=0.1))
    before = weights(module)
    trainer = fit(module, tmp_path, max_epochs=2)
    reference = torch.cat([parameter.flatten() for parameter in module.reference.parameters()])
    assert torch.equal(reference, before)
    assert not torch.equal(weights(module), before)
    assert trainer.callback_metrics["loss/kl"] > 0  # in the second epoch the two have parted


def test_without_a_kl_coefficient_there_is_no_reference():
    module = make_module()
    module.configure_model()
    assert module.reference is None


@pytest.mark.slow
def test_the_scheduler_goes_one_step_an_epoch(tmp_path):
    module = make_module(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    trainer = fit(module, tmp_path, max_epochs=3, data={"minibatch_size": 16})
    first = torch.optim.AdamW([torch.zeros(1)]).param_groups[0]["lr"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(first / 8)


class TestALossThatIsNotFinite:
    def test_it_stops_the_run_and_names_the_batch(self, tmp_path):
        with pytest.raises(
            FloatingPointError,
            match=r"loss must be finite, got nan in epoch 1, minibatch 0, rows 0 to .*; updates of this epoch before "
            r"it: 0; .* and begin anew: there is no checkpoint yet",
        ):
            fit(make_module(BrokenGiGPO()), tmp_path, max_epochs=3)

    @pytest.mark.slow
    def test_the_updates_that_went_before_in_its_epoch_are_counted(self, tmp_path):
        module, done = make_module(BrokenGiGPO()), []

        class Count(Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                done.append(trainer.current_epoch)

        with pytest.raises(FloatingPointError) as error:
            fit(module, tmp_path, Count(), max_epochs=3, data={"minibatch_size": 4})
        assert f"updates of this epoch before it: {done.count(1)}; no checkpoint was replaced" in str(error.value)
        assert done.count(1) > 0

    def test_the_weights_and_the_last_checkpoint_are_unharmed(self, tmp_path):
        module = make_module(BrokenGiGPO())
        checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=True, every_n_epochs=1)
        options = {"max_epochs": 3, "enable_checkpointing": True, "logger": CSVLogger(tmp_path)}
        with pytest.raises(FloatingPointError):
            fit(module, tmp_path, checkpoint, **options)
        kept = torch.load(tmp_path / "kept" / "last.ckpt", map_location="cpu", weights_only=True)
        assert kept["gigpo"]["iteration"] == 1
        assert all(
            torch.equal(kept["state_dict"][f"_policy.{name}"], value)
            for name, value in module.policy.state_dict().items()
        )
        assert torch.isfinite(weights(module)).all()


def test_a_checkpoint_of_another_module_is_refused():
    with pytest.raises(ValueError, match="must name a checkpoint that GiGPOModule wrote"):
        make_module().on_load_checkpoint({"state_dict": {}})


def test_a_checkpoint_of_another_policy_is_refused_by_the_first_weight_that_differs():
    module, checkpoint = make_module(), {}
    module.configure_model()
    module.on_save_checkpoint(checkpoint)
    weights = dict(module.state_dict())
    name = "_policy.model.lm_head.weight"
    for others in (weights | {name: torch.zeros(3, 3)}, {key: value for key, value in weights.items() if key != name}):
        with pytest.raises(ValueError, match=f"must name a checkpoint of this policy; in this one {name}"):
            module.on_load_checkpoint(checkpoint | {"state_dict": others})
    module.on_load_checkpoint(checkpoint | {"state_dict": weights})


def resume(tmp_path, module, change):
    """Go on from a run's checkpoint after a change of what is in it."""
    trainer = fit(make_module(resume_run.RememberingGiGPO()), tmp_path)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    checkpoint = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=2, limit_val_batches=0, **ON_DEVICE)
    trainer.fit(module, walking_data(random_walk(module)), ckpt_path=tmp_path / "changed.ckpt")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda checkpoint: checkpoint["gigpo"].pop("random_states"), "gigpo.random_states is missing"),
        (lambda checkpoint: checkpoint["gigpo"].update(random_states=[]), "gigpo.random_states is missing"),
        (lambda checkpoint: checkpoint["gigpo"]["random_states"][0].pop("numpy"), "random states must be those of"),
        (lambda checkpoint: checkpoint["gigpo"].update(iteration="two"), "gigpo.iteration is missing"),
        (lambda checkpoint: checkpoint.pop("optimizer_states"), "this one has weights only"),
        (
            lambda checkpoint: checkpoint["optimizer_states"][0]["param_groups"][0]["params"].pop(),
            "with this optimizer",
        ),
        (lambda checkpoint: checkpoint["lr_schedulers"].append({}), "it had one, this run has none"),
        (lambda checkpoint: checkpoint["gigpo"].update(credit={}), "of a run with this RememberingGiGPO"),
    ],
)
def test_a_checkpoint_that_one_cannot_go_on_from_is_refused_before_anything_is_taken(tmp_path, change, why):
    module = make_module(resume_run.RememberingGiGPO())
    module.configure_model()
    before = weights(module)
    with pytest.raises(ValueError, match=why) as refused:
        resume(tmp_path, module, change)
    assert str(refused.value).startswith(f"ckpt_path '{tmp_path / 'changed.ckpt'}' must name a checkpoint")
    assert torch.equal(weights(module), before)
    assert (module.policy_version, module.iteration, len(module.credit.returns)) == (0, 0, 0)


def test_a_norm_that_lets_nothing_through_is_refused():
    with pytest.raises(ValueError, match="max_grad_norm must be > 0, got 0"):
        make_module(max_grad_norm=0.0)


def test_a_reference_is_not_even_looked_at_for_a_checkpoint():
    module = make_module(loss=LossSettings(kl_coefficient=0.1))
    module.configure_model()
    walked = []
    for policy in (module.policy, module.reference):
        policy.register_state_dict_pre_hook(lambda each, prefix, keep_vars: walked.append(each))
    assert set(module.state_dict(prefix="x.")) == {
        f"x._policy.{name}" for name, _ in module.policy.named_parameters(remove_duplicate=False)
    }
    assert walked == [module.policy]  # Lightning's FSDP gathers whatever it walks through
    assert module.reference is not None


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_no_shipped_configuration_writes_a_checkpoint_twice(path):
    callbacks = (yaml.safe_load(path.read_text()).get("trainer") or {}).get("callbacks") or []
    checkpoints = [each["init_args"] for each in callbacks if each["class_path"].endswith("ModelCheckpoint")]
    assert all(each.get("save_last", False) in (False, "link") for each in checkpoints)
