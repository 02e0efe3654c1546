"""Discounted returns (Eq. 5 of arXiv:2505.10978).

Shape letters: S = rows of the step table (every step of every trajectory, flattened).
"""

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from gigpo_lightning.errors import check_range
from gigpo_lightning.trajectory import visit_order


def discounted_returns(
    rewards: Float64[ndarray, " S"],
    trajectory_ids: Int64[ndarray, " S"],
    step_index: Int64[ndarray, " S"],
    *,
    discount: float,
) -> Float64[ndarray, " S"]:
    """Reward from each step on, R_t = Σ_{k≥t} γ^{k−t} r_k (Eq. 5), whatever the order of the rows.

    A trajectory's rows are ordered by ``step_index``; a gap in it is not a step. Round k adds the rewards 2^k to
    2^(k+1) - 1 rows ahead: a million steps take 20 rounds, and equal rewards to come give equal returns to the last
    bit.

    Args:
        rewards: Reward of each step, ``(S,)``.
        trajectory_ids: Trajectory of each step, ``(S,)``.
        step_index: Position in the trajectory, ``(S,)``.
        discount: γ, between 0 and 1.

    Returns:
        Discounted returns ``(S,)``, in units of reward.

    Raises:
        ValueError: If ``discount`` is not in [0, 1].

    Example:
        >>> ids, steps = np.array([0, 0, 0]), np.array([0, 1, 2])
        >>> discounted_returns(np.array([0.0, 0.0, 8.0]), ids, steps, discount=0.5)
        array([2., 4., 8.])
    """
    check_range("discount", discount, 0.0, 1.0)
    returns = rewards.astype(np.float64)
    if not returns.size:
        return returns
    order = visit_order(trajectory_ids, step_index)
    ends = np.flatnonzero(np.r_[np.diff(trajectory_ids[order]) != 0, True])
    lengths = np.diff(np.r_[-1, ends])
    steps_left = np.repeat(ends, lengths) - np.arange(len(order))
    sums = returns[order]  # of the next `reach` rewards, from each row on
    reach = 1
    while reach < lengths.max():
        sums[:-reach] += np.where(steps_left[:-reach] >= reach, discount**reach * sums[reach:], 0.0)
        reach *= 2
    returns[order] = sums
    return returns


def episode_returns(rewards: Float64[ndarray, " S"], trajectory_ids: Int64[ndarray, " S"]) -> Float64[ndarray, " S"]:
    """Undiscounted return of the whole trajectory that each step belongs to, R(τ) of Eq. 2.

    Args:
        rewards: Reward of each step, ``(S,)``.
        trajectory_ids: Trajectory of each step, ``(S,)``.

    Returns:
        R(τ) of each row's trajectory, ``(S,)``, in units of reward; the same to the last bit for trajectories that got
        the same rewards, at whatever steps.
    """
    if not rewards.size:
        return rewards.astype(np.float64)
    _, dense = np.unique(trajectory_ids, return_inverse=True)
    paid = np.flatnonzero(rewards)  # few, as a rule, and the others add nothing
    paid = paid[np.lexsort((rewards[paid], dense[paid]))]
    totals = np.bincount(dense[paid], rewards[paid], minlength=int(dense.max()) + 1)
    return totals.astype(np.float64)[dense]  # of no rows it counts in integers
