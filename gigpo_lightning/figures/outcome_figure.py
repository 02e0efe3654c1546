"""The figure of held-out outcomes by kind: how episodes ended, and which games training won or lost."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gigpo_lightning.figures.outcomes import as_number, with_total
from gigpo_lightning.figures.plain_text import FONT, drawable, shortened

_CELL, _ROW, _NAMES, _GAP = 0.67, 0.32, 2.25, 0.25  # in inches, as all sizes below
_HEAD, _FOOT = 1.1, 0.35


def draw_outcomes(
    ends: Mapping[str, Mapping[str, float]], changes: Mapping[str, Mapping[str, float]] | None, title: str
) -> Figure:
    """Draw kinds against outcomes, with counts; darker is a larger share of the kind.

    ``ends`` and ``changes`` are from ``outcomes_by_kind`` and ``changes_by_kind``; there are no changes without an
    earlier evaluation.

    Raises:
        ValueError: If there is no kind.
    """
    if not ends:
        raise ValueError("ends must have at least one kind, got 0")
    panels = [("how episodes ended", with_total(ends))]
    if changes:
        panels.append(("first evaluation and this one", with_total(changes)))
    columns = [len(next(iter(counts.values()))) for _, counts in panels]
    rows = len(panels[0][1])
    width = max(_NAMES + _CELL * sum(columns) + _GAP * len(panels), 7.0)
    height = _HEAD + _ROW * rows + _FOOT
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    left = _NAMES
    for number, ((heading, counts), num_columns) in enumerate(zip(panels, columns, strict=True)):
        across = _CELL * num_columns
        axes = figure.add_axes((left / width, _FOOT / height, across / width, _ROW * len(counts) / height))
        _draw_counts(axes, counts, with_names=number == 0)
        axes.set_title(heading, size=9, family=FONT, weight="bold", pad=34)
        left += across + _GAP
    figure.text(0.1 / width, 1 - 0.08 / height, drawable(title), va="top", size=10, family=FONT, parse_math=False)
    figure.text(_NAMES / width, 0.08 / height, "darker: a larger share of its kind", size=8, family=FONT)
    return figure


def _draw_counts(axes: Axes, counts: Mapping[str, Mapping[str, float]], with_names: bool) -> None:
    values = np.array([list(each.values()) for each in counts.values()])
    totals = values.sum(axis=1, keepdims=True)
    shares = values / np.where(totals > 0, totals, 1.0)
    axes.pcolormesh(shares, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if shares[row, column] > 0.55 else "#202020"
        text = as_number(float(value)) if value else "·"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=9, family=FONT, color=colour)
    if "all" in counts:
        axes.axhline(len(counts) - 1, color="#404040", linewidth=1.0)
    names = [drawable(shortened(kind, 30)) for kind in counts] if with_names else []
    axes.set_yticks(np.arange(len(names)) + 0.5, names, size=9, family=FONT, parse_math=False)
    headings = [name.replace(" ", "\n", 1) for name in next(iter(counts.values()))]
    axes.set_xticks(np.arange(len(headings)) + 0.5, headings, size=8, family=FONT)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.invert_yaxis()
    axes.set_frame_on(False)
