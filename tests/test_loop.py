"""The loop without Lightning is the Lightning run: equal weights to the last bit, one process, float32, on a CPU."""

import inspect
import re
import textwrap
from pathlib import Path

import pytest
import torch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.corrections import TruncatedCorrection
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks
from gigpo_lightning.experience import Batching
from gigpo_lightning.loop import train
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters, TransformersEngine
from gigpo_lightning.update import Learner
from modules import GiGPOModule, Policy
from tests.scripted_run import quiet_trainer, tiny_module, walking_data

EPOCHS = 3
PLAYED = {"sampling": SamplingParameters(max_tokens=1), "tasks_per_epoch": 4, "group_size": 4, "max_steps": 4}
PLAYED |= {"workers": 0, "deterministic": True}


def make_scheduler(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=EPOCHS)


def by_lightning(folder: Path, loss: LossSettings) -> GiGPOModule:
    module = tiny_module()
    module.loss_settings, module.make_lr_scheduler = loss, make_scheduler
    data = walking_data(TransformersEngine(), minibatch_size=16, held_out_splits=["valid_seen"], **PLAYED)
    quiet_trainer(folder, max_epochs=EPOCHS).fit(module, data)
    return module


def by_the_loop(loss: LossSettings) -> tuple[Policy, list]:
    policy = tiny_module().policy
    policy.rescores = loss.importance_correction is not None
    optimizer = torch.optim.AdamW(policy.parameters())
    reference = tiny_module().policy
    learner = Learner(
        policy,
        loss,
        optimizer,
        make_scheduler(optimizer),
        ref_logprobs=lambda tokens, temperature: reference.score(tokens, temperature)[0],
    )
    tasks, engine = GridworldTasks(size=3, num_walls=0), TransformersEngine()
    player = RolloutPlayer(GridworldEnvironment(), tasks, GridworldPrompt(), engine, **PLAYED)
    return policy, list(
        train(player, policy, GiGPO(), learner, Batching(minibatch_size=16), EPOCHS, held_out_splits=["valid_seen"])
    )


@pytest.mark.parametrize(
    "loss",
    [
        LossSettings(),
        LossSettings(kl_coefficient=0.1, entropy_coefficient=0.01, importance_correction=TruncatedCorrection()),
    ],
    ids=["plain", "with everything"],
)
@pytest.mark.slow
def test_the_loop_and_a_lightning_run_end_with_the_same_weights(tmp_path, loss):
    policy, _ = by_the_loop(loss)
    module = by_lightning(tmp_path, loss)
    theirs = dict(module.policy.named_weights())
    assert policy.policy_version == module.policy_version > EPOCHS
    for name, weight in policy.named_weights():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.slow
def test_the_loop_gives_an_epochs_figures_and_its_evaluations():
    _, epochs = by_the_loop(LossSettings())
    assert len(epochs) == EPOCHS
    for metrics, evaluations in epochs:
        assert {"rollout/success_rate", "loss/policy", "loss/gradient_norm"} <= metrics.keys()
        assert metrics["update/tokens"] >= metrics["update/distinct_tokens"] > 0
        assert [evaluation.split for evaluation in evaluations] == ["valid_seen"]
    versions = [evaluation.policy_version for _, (evaluation,) in epochs]
    assert versions == sorted(set(versions))


def test_a_policy_and_a_module_can_both_be_played_and_trained():
    module = tiny_module()
    assert isinstance(module, PolicyView)
    assert isinstance(module.policy, PolicyView)


def test_a_kl_coefficient_without_a_reference_is_refused():
    policy = tiny_module().policy
    with pytest.raises(ValueError, match=r"kl_coefficient must be 0 without a reference, got 0\.1"):
        Learner(policy, LossSettings(kl_coefficient=0.1), torch.optim.SGD(policy.parameters()))


def test_the_readme_quotes_the_loop_as_it_is(repository_root):
    (quoted,) = re.findall(r"^```py\n(.*?)^```", (repository_root / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    source = inspect.getsource(train)
    assert quoted == textwrap.dedent(source[source.index("    player.read_panels") :])


def test_the_loop_fits_on_a_page(repository_root):
    assert len((repository_root / "gigpo_lightning/loop.py").read_text().splitlines()) <= 80
