"""A tiny policy that learns in any world of words, for two epochs: what the adapters' tests have in common."""

from collections.abc import Sequence

import torch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.environments.base import Environment, TaskSource
from gigpo_lightning.experience import Batching
from gigpo_lightning.loop import train
from gigpo_lightning.prompts.text import CompactTextPrompt, compact_text_markers
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters, TransformersEngine
from gigpo_lightning.update import Learner
from modules import TinyPolicy

EPOCHS = 2


class OneWord(CompactTextPrompt):
    """Replies are numbers of the admissible actions, so that a tiny policy can choose between long ones."""

    NUMBERS = tuple(f"choice{number}" for number in range(8))

    def parse(self, response, view):
        """The action of a number."""
        choices = view.admissible_actions or ()
        word = response.strip()
        chosen = self.NUMBERS.index(word) if word in self.NUMBERS else 0
        return super().parse(choices[chosen % len(choices)] if choices else response, view)


def train_tiny_policy(
    environment: Environment,
    source: TaskSource,
    words: Sequence[str],
    *,
    prompt: CompactTextPrompt | None = None,
    max_steps: int = 5,
    **player,
) -> list[dict[str, float]]:
    """Train for two epochs on a split named train; the metrics of each, and every weight has moved."""
    policy = TinyPolicy([lambda: words, compact_text_markers], hidden_size=16, num_layers=1, max_length=256).build()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    learner = Learner(policy, LossSettings(entropy_coefficient=0.01), torch.optim.AdamW(policy.parameters(), lr=1e-2))
    settings = {"tasks_per_epoch": 2, "group_size": 4, "workers": 0, "sampling": SamplingParameters(max_tokens=1)}
    engine = TransformersEngine()
    played = RolloutPlayer(
        environment, source, prompt or CompactTextPrompt(), engine, max_steps=max_steps, **settings | player
    )
    epochs = [metrics for metrics, _ in train(played, policy, GiGPO(), learner, Batching(), EPOCHS)]
    assert policy.policy_version == EPOCHS
    assert all(not torch.equal(before[name], weight) for name, weight in policy.named_parameters())
    return epochs
