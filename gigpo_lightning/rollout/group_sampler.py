"""Which of the groups that were played an epoch trains on."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Protocol, runtime_checkable

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import NothingPlayedError, check_count, check_range
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.trajectory import TrajectoryGroup

_logger = logging.getLogger(__name__)


@runtime_checkable
class GroupSampler(Protocol):
    """Says which groups are worth an update; the player plays others for those that are not.

    One that compares groups with one another fulfils ``RanksGroups`` as well.
    """

    @property
    def max_rounds(self) -> int:
        """Times that an epoch may play, the first included."""

    def keep(self, group: TrajectoryGroup) -> bool:
        """Whether a group that was played takes part in the update."""


@runtime_checkable
class RanksGroups(Protocol):
    """A group sampler that compares the groups of a round with one another."""

    def keep_of(self, groups: Sequence[TrajectoryGroup]) -> list[bool]:
        """Whether each of the groups that a round has played takes part in the update."""


class DynamicSampling:
    """Discards groups whose returns are all equal: they say nothing at the episode level (DAPO, arXiv:2503.14476).

    Only as many new groups are played as are missing, of tasks that the epoch has not played yet. Differs from GiGPO's
    reference code, which plays the whole batch again. Returns are the environment's, without the penalty for invalid
    actions, which hardly ever agree. With ``loss.clip_high`` above ``clip_low`` it makes the paper's "GiGPO with
    dynamic sampling", .28 and .2.

    Args:
        max_rounds: Times that an epoch may play, the first included; then it trains on what it has.

    Raises:
        ValueError: If ``max_rounds`` is not positive.
    """

    def __init__(self, max_rounds: int = 10) -> None:
        check_count("max_rounds", max_rounds)
        self.max_rounds = max_rounds

    def keep(self, group: TrajectoryGroup) -> bool:
        """Whether two of the returns differ."""
        returns = [trajectory.episode_return for trajectory in group.trajectories]
        return min(returns) < max(returns)


class VariedReturns:
    """Keeps the share of the groups whose returns vary most (StarPO-S of RAGEN, arXiv:2504.20073).

    Groups are ranked by the standard deviation of their returns, the environment's, without the penalty for invalid
    actions; of equals the first is kept. The epoch trains on fewer groups then: no other is played for those that are
    discarded. Several ranks keep their share of their own groups each. StarPO-S also has no KL and a larger
    ``loss.clip_high``; its bi-level GAE needs a critic, and is not here.

    Args:
        share: Of the groups that are kept, above 0 and at most 1, rounded down, but at least one; .25 for Sokoban in
            its paper.

    Raises:
        ValueError: If ``share`` is out of its range.
    """

    max_rounds = 1

    def __init__(self, share: float = 0.25) -> None:
        check_range("share", share, 1e-9, 1.0)
        self.share = share

    def keep(self, group: TrajectoryGroup) -> bool:
        """A group that stands alone is the best of all."""
        return True

    def keep_of(self, groups: Sequence[TrajectoryGroup]) -> list[bool]:
        """Whether each group is among those that vary most."""
        spread = [_spread([trajectory.episode_return for trajectory in group.trajectories]) for group in groups]
        ranked = sorted(range(len(groups)), key=lambda number: -spread[number])
        kept = ranked[: max(1, int(self.share * len(groups) + 1e-9))]  # .29 of 100 groups is 28.999... of them
        return [number in kept for number in range(len(groups))]


def _spread(returns: Sequence[float]) -> float:
    """The standard deviation; 0 of equal returns, to the last bit."""
    return stdev(returns) if min(returns) < max(returns) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedGroups:
    """What an epoch's tasks gave.

    Attributes:
        groups: The groups that are trained on.
        discarded: The others.
        rounds: Times that it was played.
        progress: Counts of all rounds.
        seconds: Time that playing them took.
    """

    groups: tuple[TrajectoryGroup, ...]
    progress: RolloutProgress
    discarded: tuple[TrajectoryGroup, ...] = ()
    rounds: int = 1
    seconds: float = 0.0

    def every(self) -> tuple[TrajectoryGroup, ...]:
        """All groups that were played."""
        return *self.groups, *self.discarded


def play_groups(
    play: Callable[[Sequence[Task]], tuple[list[TrajectoryGroup], RolloutProgress]],
    tasks: Sequence[Task],
    more_tasks: Callable[[Sequence[Task], int], Sequence[Task]],
    sampler: GroupSampler | None,
) -> PlayedGroups:
    """Play tasks, and as many others as the sampler discards groups, until none is missing or a limit is reached.

    Where every group has been discarded, as many as there were tasks are kept all the same: an update needs steps.
    ``more_tasks`` gives up to so many tasks that are not among those played; a sampler of None keeps all groups.
    """
    kept: list[TrajectoryGroup] = []
    discarded: list[TrajectoryGroup] = []
    groups, progress = play(tasks)
    played, rounds = list(tasks), 1
    while True:
        for group, keep in zip(groups, _worth(groups, sampler), strict=True):
            (kept if keep else discarded).append(group)
        missing = len(tasks) - len(kept)
        more = more_tasks(played, missing) if missing and sampler and rounds < sampler.max_rounds else ()
        if not more:
            break
        played += more
        rounds += 1
        try:
            groups, part = play(more)
        except NothingPlayedError as error:  # no task of this round could be played; those that are kept were
            _logger.warning("round %d gave nothing: %s", rounds, error)
            groups = []
            continue
        progress.add(part)
    if missing and sampler is not None and sampler.max_rounds > 1:
        _logger.warning("%d of %d groups were kept in %d rounds", len(kept), len(tasks), rounds)
    if not kept:
        kept, discarded = discarded[: len(tasks)], discarded[len(tasks) :]
    return PlayedGroups(groups=tuple(kept), discarded=tuple(discarded), rounds=rounds, progress=progress)


def _worth(groups: Sequence[TrajectoryGroup], sampler: GroupSampler | None) -> list[bool]:
    """Whether each group of a round is worth an update."""
    if isinstance(sampler, RanksGroups):
        return sampler.keep_of(groups)
    return [sampler is None or sampler.keep(group) for group in groups]
