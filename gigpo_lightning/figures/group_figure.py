"""The figure of one group: which of its steps earned credit, and in which states its episodes parted ways."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy import ndarray

from gigpo_lightning.figures.credited import CreditedEpisode
from gigpo_lightning.figures.plain_text import FONT, drawable, shortened
from gigpo_lightning.figures.recurrence import Recurrence, actions_by_credit, decisive, letters, recurrences

COLOUR_MAP = "PRGn"  # purple and green: told apart by every kind of colour vision
JOINED = (("#0072b2", "-"), ("#d55e00", "--"), ("#000000", ":"))
"""Colour and line of the states that are joined, the one with most at stake first."""

_DPI = 100
_WIDTH, _MARGIN, _LEFT, _RIGHT, _ROW = 8.8, 0.1, 1.5, 8.7, 0.36  # in inches, as all places and sizes below
_HEAD, _KEY, _STATE, _FOOT = 0.8, 0.62, 0.40, 0.05
_OWN = (0.86, 1.42)  # where A_E is
_FILL, _STRIP = (0.03, 0.25), (0.27, 0.335)  # from the top of a row
_MIDDLE = sum(_FILL) / 2
_WIDEST = (_RIGHT - _LEFT) / 8  # so that cells of short episodes stay cells
_EDGE, _INK, _INVALID = "#9a9a9a", "#202020", "#b22222"
_CLIPPED = 0.98  # of all advantages are within the colours' range; one outlier would bleach the others

Box = list[tuple[float, float]]


class _Page:
    """A figure to draw on in inches from its left upper corner; axes would take as long as all that is drawn."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
        self.inches = Affine2D().scale(1, -1).translate(0, height) + self.figure.dpi_scale_trans

    def add(self, shapes: Collection) -> None:
        """Draw shapes; those that have a transform keep it, and have their places in inches."""
        if not shapes.is_transform_set():
            shapes.set_transform(self.inches)
        self.figure.add_artist(shapes)


def draw_group(episodes: Sequence[CreditedEpisode], title: str) -> Figure:
    """Draw the episodes of one group as rows of steps, the best episode at the top.

    A cell's fill is its step's advantage, the strip under it what the step level says. A letter names a state that the
    group meets more than once; the states in which most was at stake are joined, and told below with the actions
    that did best and worst there. At the side: the episode's number, whether it won, and the mean of its A_E, which
    only step statistics let vary within an episode.

    Raises:
        ValueError: If there is no episode.
    """
    if not episodes:
        raise ValueError("episodes must have at least one episode, got 0")
    rows = sorted(episodes, key=lambda each: (-each.episode_advantage.mean(), each.trajectory.episode_index))
    found = recurrences(rows)
    named, joined = letters(found), decisive(found, len(JOINED))
    norm = _colour_range(rows)
    longest = max(len(each.trajectory.steps) for each in rows)
    cell = min(_WIDEST, (_RIGHT - _LEFT) / longest)
    below = _HEAD + _ROW * len(rows)
    height = below + _KEY + _STATE * len(joined) + _FOOT
    page = _Page(height)
    _draw_steps(page, rows, cell, norm)
    _draw_letters(page, rows, named, cell, norm)
    for (colour, line), recurrence in zip(JOINED, joined, strict=False):
        _join(page, recurrence, cell, colour, line)
    _draw_side(page, rows, norm)
    for step in range(0, longest, 5 if longest > 12 else 1):
        _write(page, _LEFT + (step + 0.5) * cell, _HEAD - 0.05, str(step), size=8, ha="center", va="bottom")
    _draw_key(page, norm, below)
    for number, recurrence in enumerate(joined):
        letter, colour = named.get(recurrence.step_group_id, ""), JOINED[number][0]
        _tell(page, recurrence, letter, colour, below + _KEY + _STATE * number)
    _write(page, _MARGIN, 0.08, title, size=10)
    return page.figure


def _colour_range(rows: Sequence[CreditedEpisode]) -> Normalize:
    """White is 0, and both ends are as far from it."""
    sizes = np.abs(np.concatenate([each for row in rows for each in (row.advantage, row.step_advantage)]))
    largest = float(np.quantile(sizes[sizes > 0], _CLIPPED, method="higher")) if sizes.any() else 1.0
    return Normalize(-largest, largest)


def _draw_steps(page: _Page, rows: Sequence[CreditedEpisode], cell: float, norm: Normalize) -> None:
    """Cells, strips, and the corners of invalid actions."""
    places = [(row, step) for row, each in enumerate(rows) for step in range(len(each.trajectory.steps))]
    for part, name in ((_FILL, "advantage"), (_STRIP, "step_advantage")):
        values = np.concatenate([getattr(each, name) for each in rows])
        _fill(page, [_box(row, step, cell, part) for row, step in places], values, norm)
    steps = [step for each in rows for step in each.trajectory.steps]
    invalid = [_box(*place, cell, _FILL) for place, step in zip(places, steps, strict=True) if not step.valid_action]
    corners = [[(right - 0.11, top), (right, top), (right, top + 0.11)] for _, (right, top), *_ in invalid]
    page.add(PolyCollection(corners, facecolors=_INVALID, linewidths=0))


def _box(row: int, step: int, cell: float, part: tuple[float, float]) -> Box:
    """A part of a step's cell."""
    top, foot = (_HEAD + row * _ROW + each for each in part)
    return _rectangle(_LEFT + step * cell + 0.02, _LEFT + (step + 1) * cell - 0.02, top, foot)


def _rectangle(left: float, right: float, top: float, foot: float) -> Box:
    """Its corners, from the left upper one clockwise."""
    return [(left, top), (right, top), (right, foot), (left, foot)]


def _fill(page: _Page, boxes: Sequence[Box], values: Float64[ndarray, " N"], norm: Normalize) -> None:
    drawn = PolyCollection(boxes, edgecolors=_EDGE, linewidths=0.5, cmap=COLOUR_MAP, norm=norm)
    drawn.set_array(values)
    page.add(drawn)


def _draw_letters(
    page: _Page, rows: Sequence[CreditedEpisode], named: dict[int, str], cell: float, norm: Normalize
) -> None:
    """Letters as paths: as texts they would take several times as long."""
    paths, places, colours = [], [], []
    for row, episode in enumerate(rows):
        for step, anchor in enumerate(episode.step_group_id.tolist()):
            if anchor in named:
                paths.append(_outline(named[anchor]))
                places.append((_LEFT + (step + 0.5) * cell, _HEAD + row * _ROW + _MIDDLE))
                colours.append(_ink(float(episode.advantage[step]), norm))
    drawn = PathCollection(paths, offsets=places, offset_transform=page.inches, facecolors=colours, linewidths=0)
    drawn.set_zorder(3)  # above the curves
    drawn.set_transform(Affine2D().scale((9.0 if cell > 0.25 else 7.0) * _DPI / 72))
    if paths:
        page.add(drawn)


@cache
def _outline(letter: str) -> Path:
    """A letter of size 1 around the origin; all capitals rest on one line."""
    path = TextPath((0, 0), letter, size=1, prop=FontProperties(family=FONT))
    box, capital = path.get_extents(), 0.73
    return path.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -capital / 2))


def _ink(value: float, norm: Normalize) -> str:
    """The colour of letters on a fill."""
    return "white" if abs(value) > 0.6 * float(norm.vmax or 1.0) else _INK


def _join(page: _Page, recurrence: Recurrence, cell: float, colour: str, line: str) -> None:
    """Frame all visits of a state, and join the first ones of neighbouring rows."""
    boxes = [_box(visit.row, visit.step, cell, _FILL) for visit in recurrence.visits]
    page.add(PolyCollection(boxes, facecolors="none", edgecolors=colour, linewidths=1.6))
    first: dict[int, Box] = {}
    for visit, box in zip(recurrence.visits, boxes, strict=True):
        first.setdefault(visit.row, box)
    links = [np.mean([upper[2:], lower[:2]], axis=1) for upper, lower in pairwise(first.values())]
    page.add(LineCollection(links, colors=colour, linestyles=line, linewidths=1.2, alpha=0.8))


def _draw_side(page: _Page, rows: Sequence[CreditedEpisode], norm: Normalize) -> None:
    """Number, outcome and A_E of each episode."""
    _write(page, _MARGIN, _HEAD - 0.05, "episode", size=9, va="bottom")
    _write(page, sum(_OWN) / 2, _HEAD - 0.05, "A_E", size=9, ha="center", va="bottom")
    values = [float(each.episode_advantage.mean()) for each in rows]
    tops = [_HEAD + row * _ROW for row in range(len(rows))]
    boxes = [_rectangle(*_OWN, top + _FILL[0], top + _FILL[1]) for top in tops]
    _fill(page, boxes, np.array(values), norm)
    for episode, value, top in zip(rows, values, tops, strict=True):
        won = episode.trajectory.success
        outcome = f"{episode.trajectory.episode_index:>2}  {'✓ won' if won else '✗ lost'}"
        weight = "bold" if won else "normal"
        _write(page, _MARGIN, top + _MIDDLE, outcome, size=9, va="center", weight=weight)
        number = f"{value:+.2f}" if value else "0"
        middle = sum(_OWN) / 2
        _write(page, middle, top + _MIDDLE, number, size=9, ha="center", va="center", color=_ink(value, norm))


def _draw_key(page: _Page, norm: Normalize, top: float) -> None:
    """What colours and marks mean."""
    largest, num_shades, width = float(norm.vmax or 1.0), 64, 1.5
    lefts, shade = _LEFT + np.arange(num_shades) * width / num_shades, width / num_shades
    bar = [_rectangle(left, left + 1.3 * shade, top + 0.14, top + 0.26) for left in lefts]
    drawn = PolyCollection(bar, cmap=COLOUR_MAP, norm=norm, linewidths=0, antialiaseds=False)
    drawn.set_array(np.linspace(-largest, largest, num_shades))
    page.add(drawn)
    _write(page, _MARGIN, top + 0.2, "advantage", size=9, va="center")
    for share, number in ((0.0, f"{-largest:.2g}"), (0.5, "0"), (1.0, f"+{largest:.2g}")):
        _write(page, _LEFT + share * width, top + 0.28, number, size=8, ha="center")
    words = "cell: A, as in the loss   strip under it: A_S   corner: invalid action   letter: a state that recurs"
    _write(page, 3.35, top + 0.2, words, size=8, va="center")


def _tell(page: _Page, recurrence: Recurrence, letter: str, colour: str, top: float) -> None:
    """A joined state in words: what is seen there, and what was best and worst to do."""
    _write(page, _MARGIN, top, f"{letter}  ×{len(recurrence.visits)}", size=9, color=colour, weight="bold")
    ranked = [f"{shortened(action, 40)} ({credit:+.2f})" for action, credit in actions_by_credit(recurrence)]
    told = f"mean A_S   best: {ranked[0]}" + (f"   worst: {ranked[-1]}" if len(ranked) > 1 else "")
    _write(page, 0.85, top, f"{shortened(recurrence.observation, 100)}\n{told}", size=8.5)


def _write(page: _Page, left: float, top: float, text: str, **style: Any) -> None:
    """Text at a place in inches; what an environment says is no mathematics, whatever its dollars."""
    style = {"va": "top", "family": FONT, "color": _INK} | style
    page.figure.text(left, top, drawable(text), parse_math=False, transform=page.inches, **style)
