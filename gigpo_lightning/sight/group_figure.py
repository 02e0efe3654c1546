"""The figure of one group: which of its steps earned credit, and in which states its episodes parted ways."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from gigpo_lightning.sight.credited import CreditedEpisode
from gigpo_lightning.sight.plain_text import FONT, drawable, shortened
from gigpo_lightning.sight.recurrence import Recurrence, actions_by_credit, decisive, letters, recurrences

COLOUR_MAP = "PRGn"  # purple and green: told apart by every kind of colour vision
JOINED = (("#0072b2", "-"), ("#d55e00", "--"), ("#000000", ":"))
"""Colour and line of the states that are joined, the weightiest first."""

_WIDTH, _LEFT, _RIGHT, _ROW = 9.6, 1.55, 0.15, 0.36  # in inches, as all sizes below
_HEAD, _KEY, _STATE, _FOOT = 0.8, 0.62, 0.40, 0.08
_ACROSS = _WIDTH - _LEFT - _RIGHT
_FILL, _STRIP = (0.30, 0.92), (0.06, 0.26)  # of a row's height
_MIDDLE = 1 - sum(_FILL) / 2
_DPI = 100
_SHORTEST = 8  # steps that there is room for: cells of short episodes stay cells
_INVALID = "#b22222"
_CLIPPED = 0.98  # of all advantages are within the colours' range; one outlier would bleach the others


def draw_group(episodes: Sequence[CreditedEpisode], title: str) -> Figure:
    """Draw the episodes of one group as rows of steps, the best episode at the top.

    A cell's fill is its step's advantage, the strip under it what the step level says. A letter names a state that the
    group meets more than once; the states that tell its episodes apart most are joined, and told below with the actions
    that did best and worst there. At the side: the episode's number, whether it won, and the mean of its A_E, which
    only step statistics let vary within an episode.

    Args:
        episodes: At least one, of at least one step each.
        title: Says which group it is; one line or two.

    Raises:
        ValueError: If there is no episode.
    """
    if not episodes:
        raise ValueError("episodes must have at least one episode, got 0")
    rows = sorted(episodes, key=lambda each: (-each.episode_advantage.mean(), each.trajectory.episode_index))
    found = recurrences(rows)
    named, joined = letters(found), decisive(found, len(JOINED))
    norm = _colour_range(rows)
    longest = max(_SHORTEST, *(len(each.trajectory.steps) for each in rows))
    below = _KEY + _STATE * len(joined) + _FOOT
    height = _HEAD + _ROW * len(rows) + below
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    place = (_LEFT / _WIDTH, below / height, _ACROSS / _WIDTH, _ROW * len(rows) / height)
    axes = figure.add_axes(place, xlim=(0, longest), ylim=(len(rows), 0))
    _draw_steps(axes, rows, norm)
    _draw_letters(axes, rows, named, norm, size=9.0 if longest <= 30 else 6.5)
    _join(axes, joined)
    _draw_side(axes, rows, norm)
    _draw_step_numbers(axes, longest)
    _draw_key(figure, norm, below, height)
    for number, recurrence in enumerate(joined):
        top = _FOOT + _STATE * (len(joined) - number)
        _tell(figure, recurrence, named.get(recurrence.step_group_id, ""), JOINED[number][0], top / height)
    _write(figure, 0.1, 1 - 0.08 / height, title, size=10)
    return figure


def _colour_range(rows: Sequence[CreditedEpisode]) -> Normalize:
    """White is 0, and both ends are as far from it."""
    sizes = np.abs(np.concatenate([each for row in rows for each in (row.advantage, row.step_advantage)]))
    largest = float(np.quantile(sizes[sizes > 0], _CLIPPED, method="higher")) if sizes.any() else 1.0
    return Normalize(-largest, largest)


def _draw_steps(axes: Axes, rows: Sequence[CreditedEpisode], norm: Normalize) -> None:
    """Cells, strips, and the corners of invalid actions."""
    cells = [(row, step) for row, each in enumerate(rows) for step in range(len(each.trajectory.steps))]
    for (low, high), name in ((_FILL, "advantage"), (_STRIP, "step_advantage")):
        boxes = [_box(row, step, low, high) for row, step in cells]
        drawn = PolyCollection(boxes, edgecolors="#9a9a9a", linewidths=0.5, cmap=COLOUR_MAP, norm=norm)
        drawn.set_array(np.concatenate([getattr(each, name) for each in rows]))
        axes.add_collection(drawn, autolim=False)
    invalid = [(row, step) for row, step in cells if not rows[row].trajectory.steps[step].valid_action]
    corners = [
        [(step + 0.6, row + 1 - _FILL[1]), (step + 0.94, row + 1 - _FILL[1]), (step + 0.94, row + 1 - _FILL[1] + 0.3)]
        for row, step in invalid
    ]
    axes.add_collection(PolyCollection(corners, facecolors=_INVALID, linewidths=0), autolim=False)


def _box(row: int, step: int, low: float, high: float) -> list[tuple[float, float]]:
    """Corners of a cell's part; ``low`` and ``high`` count upwards from the row's foot."""
    left, right, top, foot = step + 0.06, step + 0.94, row + 1 - high, row + 1 - low
    return [(left, foot), (right, foot), (right, top), (left, top)]


def _draw_letters(
    axes: Axes, rows: Sequence[CreditedEpisode], named: dict[int, str], norm: Normalize, size: float
) -> None:
    """Letters as paths: as texts they would take longer than all else together."""
    paths, places, colours = [], [], []
    for row, episode in enumerate(rows):
        for step, anchor in enumerate(episode.step_group_id.tolist()):
            if anchor in named:
                paths.append(_outline(named[anchor]))
                places.append((step + 0.5, row + _MIDDLE))
                colours.append(_ink(float(episode.advantage[step]), norm))
    drawn = PathCollection(paths, offsets=places, offset_transform=axes.transData, facecolors=colours, linewidths=0)
    drawn.set_transform(Affine2D().scale(size * _DPI / 72))
    if paths:
        axes.add_collection(drawn, autolim=False)


@cache
def _outline(letter: str) -> Path:
    """A letter of size 1 around the origin; all capitals rest on one line."""
    path = TextPath((0, 0), letter, size=1, prop=FontProperties(family=FONT))
    width, capital = path.get_extents().width, 0.73
    return path.transformed(Affine2D().translate(-path.get_extents().x0 - width / 2, -capital / 2))


def _ink(value: float, norm: Normalize) -> str:
    """The colour of letters on a fill."""
    return "white" if abs(value) > 0.6 * float(norm.vmax or 1.0) else "#202020"


def _join(axes: Axes, joined: Sequence[Recurrence]) -> None:
    """Frame the visits of the weightiest states, and join the first ones of neighbouring rows."""
    for (colour, line), recurrence in zip(JOINED, joined, strict=False):
        boxes = [_box(visit.row, visit.step, *_FILL) for visit in recurrence.visits]
        axes.add_collection(PolyCollection(boxes, facecolors="none", edgecolors=colour, linewidths=1.6), autolim=False)
        first: dict[int, int] = {}
        for visit in recurrence.visits:
            first.setdefault(visit.row, visit.step)
        ends = [(row, step + 0.5) for row, step in first.items()]
        links = [
            [(x, row + 1 - _FILL[0]), (other_x, other_row + 1 - _FILL[1])]
            for (row, x), (other_row, other_x) in pairwise(ends)
        ]
        axes.add_collection(LineCollection(links, colors=colour, linestyles=line, linewidths=1.2), autolim=False)


def _draw_side(axes: Axes, rows: Sequence[CreditedEpisode], norm: Normalize) -> None:
    """Number, outcome and A_E of each episode."""
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "family": FONT, "size": 9}
    left, middle = -(_LEFT - 0.1) / _ACROSS, -0.38 / _ACROSS
    axes.text(left, -0.1, "episode", va="bottom", **place)
    axes.text(middle, -0.1, "A_E", ha="center", va="bottom", **place)
    values = [float(each.episode_advantage.mean()) for each in rows]
    corners = [(-0.66, _FILL[0]), (-0.10, _FILL[0]), (-0.10, _FILL[1]), (-0.66, _FILL[1])]
    boxes = [[(x / _ACROSS, row + 1 - y) for x, y in corners] for row in range(len(rows))]
    drawn = PolyCollection(boxes, edgecolors="#404040", linewidths=0.8, cmap=COLOUR_MAP, norm=norm, clip_on=False)
    drawn.set_array(np.array(values))
    drawn.set_transform(axes.get_yaxis_transform())
    axes.add_collection(drawn, autolim=False)
    for row, (episode, value) in enumerate(zip(rows, values, strict=True)):
        won = episode.trajectory.success
        outcome = f"{episode.trajectory.episode_index:>2}  {'✓ won' if won else '✗ lost'}"
        axes.text(left, row + _MIDDLE, outcome, va="center", weight="bold" if won else "normal", **place)
        number = f"{value:+.2f}" if value else "0"
        axes.text(middle, row + _MIDDLE, number, ha="center", va="center", color=_ink(value, norm), **place)


def _draw_step_numbers(axes: Axes, longest: int) -> None:
    every = 5 if longest > 12 else 1
    numbers = range(0, longest, every)
    axes.set_xticks([number + 0.5 for number in numbers], [str(number) for number in numbers], size=8, family=FONT)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=2, pad=1)
    axes.set_yticks([])
    axes.set_frame_on(False)


def _draw_key(figure: Figure, norm: Normalize, below: float, height: float) -> None:
    """What colours and marks mean."""
    axes = figure.add_axes((_LEFT / _WIDTH, (below - 0.26) / height, 1.6 / _WIDTH, 0.12 / height))
    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=COLOUR_MAP), cax=axes, orientation="horizontal")
    ends = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    bar.set_ticks([ends[0], 0.0, ends[1]], labels=[f"{ends[0]:.2g}", "0", f"{ends[1]:+.2g}"], size=8, family=FONT)
    bar.ax.tick_params(length=2, pad=1)
    middle = (below - 0.2) / height
    _write(figure, 0.1, middle, "advantage", size=9, va="center")
    words = "cell: A = A_E + ω·A_S    strip under it: A_S    corner: invalid action    letter: a state that recurs"
    _write(figure, 3.35, middle, words, size=8.5, va="center")


def _tell(figure: Figure, recurrence: Recurrence, letter: str, colour: str, top: float) -> None:
    """A joined state in words: what is seen there, and what was best and worst to do."""
    _write(figure, 0.1, top, f"{letter}  ×{len(recurrence.visits)}", size=9, color=colour, weight="bold")
    ranked = [f"{shortened(action, 48)} ({credit:+.2f})" for action, credit in actions_by_credit(recurrence)]
    told = f"mean A_S   best: {ranked[0]}" + (f"   worst: {ranked[-1]}" if len(ranked) > 1 else "")
    _write(figure, 0.85, top, f"{shortened(recurrence.observation, 125)}\n{told}", size=8.5)


def _write(figure: Figure, left: float, height: float, text: str, **style: Any) -> None:
    """Text at so many inches from the left; what an environment says is no mathematics, whatever its dollars."""
    style = {"va": "top", "family": FONT} | style
    figure.text(left / _WIDTH, height, drawable(text), parse_math=False, **style)
