"""Scorers of steps that need nothing but what was played."""

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
