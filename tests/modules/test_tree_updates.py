"""Gradients do not show what was computed once: real rollouts, with everything that a loss may have."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.corrections import TruncatedCorrection
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.batch import TokenCounts, make_minibatches, prepare
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters, TransformersEngine
from gigpo_lightning.token_trees import RowRules
from gigpo_lightning.trajectory import StepTable, Trajectory, TrajectoryGroup
from gigpo_lightning.update import Learner
from modules import LoraPolicy, Policy, TinyPolicy, tree_attention
from modules.lora import AdaptedPolicy

PLAIN = RowRules(shared=False)


def source(**options: Any) -> TinyPolicy:
    return TinyPolicy([gridworld_words, gridworld_markers], hidden_size=16, max_length=512, **options)


@pytest.fixture(scope="module")
def played() -> list[TrajectoryGroup]:
    """What a policy with random weights does in two gridworlds, four times each."""
    player = RolloutPlayer(
        GridworldEnvironment(),
        GridworldTasks(size=3, num_walls=0),
        GridworldPrompt(),
        TransformersEngine(),
        sampling=SamplingParameters(max_tokens=2),
        tasks_per_epoch=2,
        group_size=4,
        max_steps=5,
        workers=0,
        deterministic=True,
    )
    player.read_panels([player.train_split])
    try:
        return list(player.play(0, source().build()).groups)
    finally:
        player.close()


def growing(groups: list[TrajectoryGroup]) -> list[TrajectoryGroup]:
    """The same replies, as if each prompt went on where the last reply had ended."""

    def grown(trajectory: Trajectory) -> Trajectory:
        text: tuple[int, ...] = ()
        steps = []
        for step in trajectory.steps:
            text += step.prompt_ids
            steps.append(replace(step, prompt_ids=text))
            text += step.completion_ids
        return replace(trajectory, steps=tuple(steps))

    return [replace(group, trajectories=tuple(map(grown, group.trajectories))) for group in groups]


def update(
    groups: list[TrajectoryGroup], policy: Policy, loss: LossSettings, rules: RowRules, budget: int
) -> tuple[torch.Tensor, dict[str, float], TokenCounts]:
    """The gradient of one update with all steps, what it logs, and its tokens."""
    policy.rescores = loss.importance_correction is not None
    minibatches = make_minibatches(
        groups,
        GiGPO().estimate(StepTable.from_groups(groups)),
        pad_token_id=0,
        temperature=1.0,
        minibatch_size=None,
        micro_batch_tokens=budget,
        seed=0,
        rules=rules,
    )
    (minibatch,) = prepare(minibatches, policy)
    trained = [each for each in policy.parameters() if each.requires_grad]
    learner = Learner(
        policy,
        loss,
        torch.optim.SGD(trained, lr=0.0),
        max_grad_norm=1e9,
        ref_logprobs=lambda tokens, temperature: reference(policy, tokens, temperature),
    )
    logged = learner.update(minibatch)
    return torch.cat([each.grad.flatten() for each in trained]).double(), logged, minibatch.token_counts


def reference(policy: Policy, tokens: Any, temperature: float) -> torch.Tensor:
    """The policy without its adapters, or another one."""
    if isinstance(policy, AdaptedPolicy):
        with policy.without_adapters():
            return policy.score(tokens, temperature)[0]
    return source(seed=1).build().score(tokens, temperature)[0]


EVERYTHING = LossSettings(kl_coefficient=0.1, entropy_coefficient=0.01, importance_correction=TruncatedCorrection())


@pytest.mark.parametrize("rules", [RowRules(), RowRules(one_row=True, quick=(32,))], ids=["short rows", "side by side"])
@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (LossSettings(), "whole"),
        (LossSettings(aggregation="trajectory"), "whole"),
        (EVERYTHING, "whole"),
        (EVERYTHING, "lora"),
        (EVERYTHING, "checkpointed"),
    ],
)
@pytest.mark.parametrize("budget", [150, 100_000])
def test_the_gradient_is_that_of_one_row_a_step(
    loss: LossSettings,
    kind: str,
    budget: int,
    rules: RowRules,
    played: list[TrajectoryGroup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tree_attention, "QUICK", (16, 32))  # so that some trees are computed by blocks

    def policy() -> Policy:
        if kind != "lora":
            made = source().build()
            if kind == "checkpointed":
                made.model.gradient_checkpointing_enable()
            return made.train()
        made = LoraPolicy(source(), rank=2).build().train()
        for name, weight in made.named_parameters():
            if "lora_B" in name:  # fresh ones are zeros, and the others then have no gradient
                torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(0))
        return made

    groups = growing(played)
    expected, logged, _ = update(groups, policy(), loss, PLAIN, 100_000)
    found, also, counts = update(groups, policy(), loss, rules, budget)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert also == pytest.approx(logged, rel=1e-4, abs=1e-6)
    assert counts.distinct <= counts.computed < counts.of_rows


def test_a_conversation_is_computed_once(played: list[TrajectoryGroup]) -> None:
    _, _, counts = update(growing(played), source().build(), LossSettings(), RowRules(one_row=True), 100_000)
    assert counts.computed == counts.distinct
    assert counts.metrics()["update/sharing"] > 2


def test_steps_that_share_all_their_tokens_keep_their_own_advantages(played: list[TrajectoryGroup]) -> None:
    steps = [step for group in played for trajectory in group.trajectories for step in trajectory.steps]
    alike = [
        replace(step, prompt_ids=steps[0].prompt_ids, completion_ids=(3, 4), logprobs=(-1.0, -2.0)) for step in steps
    ]
    order = iter(alike)
    groups = [
        replace(
            group,
            task_id="one",
            trajectories=tuple(
                replace(each, steps=tuple(next(order) for _ in each.steps)) for each in group.trajectories
            ),
        )
        for group in played
    ]
    expected, _, _ = update(groups, source().build(), EVERYTHING, PLAIN, 100_000)
    found, _, counts = update(groups, source().build(), EVERYTHING, RowRules(one_row=True), 100_000)
    assert counts.computed == len(steps[0].prompt_ids) + 2
    assert (found - expected).norm() <= 1e-5 * expected.norm()
