"""GiGPO as slow, obvious loops: one row at a time, every row compared with every other."""

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from gigpo_lightning.trajectory import StepTable


def oracle(
    table: StepTable,
    *,
    step_advantage_weight: float,
    discount: float,
    scale_by_std: bool,
    episode_statistics: str,
    invalid_action_penalty: float,
    penalty_placement: str,
    own_step_penalty: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advantage, episode advantage and step advantage of every row."""
    rows = range(len(table))
    penalty = [0.0 if table.valid_action[i] else invalid_action_penalty for i in rows]
    in_reward = penalty_placement == "reward" and not own_step_penalty
    early = [penalty[i] if in_reward else 0.0 for i in rows]  # known before the returns are
    late = [0.0 if in_reward else penalty[i] for i in rows]  # taken from them afterwards
    reward = [float(table.reward[i]) - early[i] for i in rows]

    def trajectory(i: int) -> list[int]:
        own = [j for j in rows if table.trajectory_id[j] == table.trajectory_id[i]]
        return sorted(own, key=lambda j: int(table.step_index[j]))

    of_episode = late
    if own_step_penalty and penalty_placement == "reward":
        of_episode = [fmean(penalty[j] for j in trajectory(i)) for i in rows]
    score = [sum(reward[j] for j in trajectory(i)) - of_episode[i] for i in rows]
    returns = []
    for i in rows:
        ahead = trajectory(i)[trajectory(i).index(i) :]
        returns.append(sum(discount**k * reward[j] for k, j in enumerate(ahead)) - late[i])

    episode, step = [], []
    for i in rows:
        rivals = [j for j in rows if table.episode_group_id[j] == table.episode_group_id[i]]
        if episode_statistics == "step" and len(rivals) == 1:
            episode.append(score[i] + (of_episode[i] if own_step_penalty else 0.0))
        elif episode_statistics == "step":
            episode.append(relative(score[i], [score[j] for j in rivals], scale_by_std))
        else:
            firsts = [j for j in rivals if trajectory(j)[0] == j]
            episode.append(relative(score[i], [score[j] for j in firsts], scale_by_std))
        meeting = [j for j in rivals if table.anchor_key[j] == table.anchor_key[i]]
        step.append(relative(returns[i], [returns[j] for j in meeting], scale_by_std))
    total = [e + step_advantage_weight * s for e, s in zip(episode, step, strict=True)]
    return np.array(total), np.array(episode), np.array(step)


def relative(value: float, group: Sequence[float], scale_by_std: bool) -> float:
    """The value less its group's mean, perhaps over its group's standard deviation."""
    if max(group) == min(group):
        return 0.0
    return (value - fmean(group)) / (stdev(group) + 1e-6 if scale_by_std else 1.0)
