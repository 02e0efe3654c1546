"""Scorers of steps that need nothing but what was played."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from gigpo_lightning.engines.base import Scorer
from gigpo_lightning.trajectory import TrajectoryGroup


class SampledEntropy:
    """Minus the mean log-probability of a reply's tokens, in nats: an unbiased sample of the policy's entropy there.

    It shows where the policy hesitates, at no cost: the sampler's own log-probabilities are known. A reply without
    tokens has none.
    """

    def score(self, groups: Sequence[TrajectoryGroup], policy: Scorer | None) -> Mapping[str, Sequence[float]]:
        """The column ``sampled_entropy``."""
        steps = [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
        return {"sampled_entropy": [-float(np.mean(s.logprobs)) if s.logprobs else float("nan") for s in steps]}


class IdleActions:
    """Whether a step did nothing: 1 if its action, or what the world said to it, is known to be idle, else 0.

    ``RewardFlow`` with ``bridge_idle`` reads it. The defaults are what its code takes for idle in ALFWorld.

    Args:
        actions: Regular expression that the whole of an idle action matches.
        observations: Regular expression that is found in the answer to an idle action.

    Raises:
        ValueError: If one of them is no regular expression.
    """

    def __init__(self, actions: str = "inventory|look|.*examine.*", observations: str = "Nothing happens") -> None:
        self.actions = _compiled("actions", actions)
        self.observations = _compiled("observations", observations)

    def score(self, groups: Sequence[TrajectoryGroup], policy: Scorer | None) -> Mapping[str, Sequence[float]]:
        """The column ``idle``."""
        idle = []
        for trajectory in (trajectory for group in groups for trajectory in group.trajectories):
            answers = [*(step.observation for step in trajectory.steps[1:]), trajectory.final_observation]
            for step, answer in zip(trajectory.steps, answers, strict=True):
                idle.append(float(bool(self.actions.fullmatch(step.action) or self.observations.search(answer))))
        return {"idle": idle}


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{name} must be a regular expression, got {pattern!r}: {error}") from error
