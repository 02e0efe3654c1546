"""States that a group of episodes meets more than once: their letters, and where the attempts part ways."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gigpo_lightning.figures.credited import CreditedEpisode

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One step in a state that recurs, and its A_S; episodes and their steps are counted from 0."""

    row: int
    step: int
    action: str
    step_advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """A state that was met more than once; the observation is the first, in one line; visits are by row and step."""

    step_group_id: int
    observation: str
    visits: tuple[Visit, ...]


def recurrences(episodes: Sequence[CreditedEpisode]) -> list[Recurrence]:
    """Every state that the episodes meet more than once, in the order in which they are first met, row by row."""
    visits: dict[int, list[Visit]] = {}
    observations: dict[int, str] = {}
    for row, episode in enumerate(episodes):
        for index, step in enumerate(episode.trajectory.steps):
            anchor = int(episode.step_group_id[index])
            visit = Visit(row=row, step=index, action=step.action, step_advantage=float(episode.step_advantage[index]))
            visits.setdefault(anchor, []).append(visit)
            observations.setdefault(anchor, " ".join(step.observation.split()))
    return [
        Recurrence(step_group_id=anchor, observation=observations[anchor], visits=tuple(met))
        for anchor, met in visits.items()
        if len(met) > 1
    ]


def letters(found: Sequence[Recurrence]) -> dict[int, str]:
    """The letters of the recurring states, by ``step_group_id``; where letters run out, the rarest states have none."""
    most_met = sorted(found, key=lambda each: -len(each.visits))[: len(LETTERS)]
    kept = {each.step_group_id for each in most_met}
    return dict(zip((each.step_group_id for each in found if each.step_group_id in kept), LETTERS, strict=False))


def actions_by_credit(recurrence: Recurrence) -> list[tuple[str, float]]:
    """Every action that was taken in the state, with the mean A_S of those visits, best first."""
    credit: dict[str, list[float]] = {}
    for visit in recurrence.visits:
        credit.setdefault(visit.action, []).append(visit.step_advantage)
    return sorted(((action, float(np.mean(each))) for action, each in credit.items()), key=lambda pair: -pair[1])


def at_stake(recurrence: Recurrence) -> float:
    """How much the choice of the action told visits apart: the sum over visits of |mean A_S of the action taken|.

    Where all did the same it is 0, whatever came of it: then it was not decided here.
    """
    worth = dict(actions_by_credit(recurrence))
    return sum(abs(worth[visit.action]) for visit in recurrence.visits) if len(worth) > 1 else 0.0


def decisive(found: Sequence[Recurrence], most: int) -> list[Recurrence]:
    """The states in which several episodes parted ways, by what was at stake there."""
    shared = [each for each in found if len({visit.row for visit in each.visits}) > 1 and at_stake(each) > 0]
    return sorted(shared, key=lambda each: -at_stake(each))[:most]
