"""How held-out episodes ended, by kind of task, and what training changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gigpo_lightning.trajectory import StopReason

OUTCOMES = ("won", "step limit", "ended", "cut off", "invalid actions")
"""Ways to end; all but the first are lost."""
CHANGES = ("won both", "won only now", "won only before", "lost both")
"""Ways in which a game's first evaluation and its latest go together."""
_LOST = {StopReason.MAX_STEPS: "step limit", StopReason.TERMINATED: "ended", StopReason.TRUNCATED: "cut off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEpisode:
    """What counts of one held-out episode; named and written as in ``evaluations.jsonl``."""

    task_id: str
    kind: str
    success: bool
    stop_reason: str
    steps: int
    invalid_actions: int


def outcome(episode: EvaluatedEpisode) -> str:
    """How an episode ended, one of ``OUTCOMES``.

    One that was lost is "invalid actions" if at least half of its actions were, however it was stopped; else "step
    limit", "ended" by the environment without success, or "cut off" by the environment.
    """
    if episode.success:
        return "won"
    if 2 * episode.invalid_actions >= episode.steps:
        return "invalid actions"
    return _LOST[StopReason(episode.stop_reason)]


def outcomes_by_kind(episodes: Sequence[EvaluatedEpisode]) -> dict[str, dict[str, float]]:
    """How many episodes of each kind ended how; kinds in alphabetical order, and all of ``OUTCOMES`` in each."""
    counts = {kind: dict.fromkeys(OUTCOMES, 0.0) for kind in sorted({each.kind for each in episodes})}
    for each in episodes:
        counts[each.kind][outcome(each)] += 1
    return counts


def changes_by_kind(
    before: Mapping[str, float], after: Mapping[str, float], kinds: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """How many games of each kind were won in both evaluations, in one, or in none.

    A game that was played several times counts in parts: won in 3 of 4 before and 2 of 4 now, it is half a game of
    "won both", a quarter of "won only before" and a quarter of "lost both": as few changes as its rates allow.

    ``before`` and ``after`` are success rates by game, ``kinds`` each game's kind. What only one has is left out.
    """
    games = [game for game in kinds if game in before and game in after]
    counts = {kind: dict.fromkeys(CHANGES, 0.0) for kind in sorted({kinds[game] for game in games})}
    for game in games:
        first, last = before[game], after[game]
        parts = (min(first, last), max(0.0, last - first), max(0.0, first - last), 1 - max(first, last))
        for name, part in zip(CHANGES, parts, strict=True):
            counts[kinds[game]][name] += part
    return counts


def with_total(counts: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same counts, and under "all" their sum where there are several kinds."""
    every = {kind: dict(of_kind) for kind, of_kind in counts.items()}
    if len(counts) > 1:
        names = next(iter(counts.values()))
        every["all"] = {name: sum(of_kind[name] for of_kind in counts.values()) for name in names}
    return every


def as_lines(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The counts as lines of text, columns below each other; none if there is no kind.

    Example:
        >>> as_lines({"near": {"won": 3.0, "step limit": 1.0}})
        ['      won  step limit', 'near    3           1']
    """
    if not counts:
        return []
    names = list(next(iter(counts.values())))
    widths = [max(len(kind) for kind in counts), *(max(5, len(name) + 2) for name in names)]
    rows = [["", *names], *([kind, *(as_number(counts[kind][name]) for name in names)] for kind in counts)]
    return [
        row[0].ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def as_number(count: float) -> str:
    """A count without decimals where it has none, else with one."""
    return f"{count:.0f}" if abs(count - round(count)) < 0.05 else f"{count:.1f}"
