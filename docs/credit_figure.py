"""Draws docs/credit.svg: the six steps of docs/credit.md as paths through three states.

python docs/credit_figure.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.trajectory import StepTable

STATES = {"a": (0.0, 0.0), "b": (2.2, 0.0), "c": (4.4, 0.0)}
ENDS = {0: (6.4, 0.0), 1: (-2.0, 0.0)}
COLOURS = {0: "#1b7837", 1: "#762a83"}


def six_steps() -> StepTable:
    """The table of docs/credit.md."""
    return StepTable(
        episode_group_id=np.zeros(6, dtype=np.int64),
        trajectory_id=np.array([0, 0, 0, 1, 1, 1]),
        step_index=np.array([0, 1, 2, 0, 1, 2]),
        anchor_key=np.array(list("abcaba"), dtype=object),
        reward=np.array([0.0, 0.0, 8.0, 0.0, 0.0, 0.0]),
        valid_action=np.array([True, True, True, True, False, True]),
        success=np.array([True, True, True, False, False, False]),
        policy_version=np.zeros(6, dtype=np.int64),
    )


def draw(path: Path) -> None:
    """Draw the figure into a file."""
    mpl.rcParams.update({"svg.hashsalt": "credit", "svg.fonttype": "none", "font.size": 11})
    table = six_steps()
    advantage = GiGPO(discount=0.5, invalid_action_penalty=0.5).estimate(table).step_advantage
    figure = Figure(figsize=(8.4, 3.2), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    for row in range(len(table)):
        attempt, step = int(table.trajectory_id[row]), int(table.step_index[row])
        start = STATES[table.anchor_key[row]]
        end = ENDS[attempt] if step == 2 else STATES[table.anchor_key[row + 1]]
        bend = {(0, 0): -0.25, (0, 1): -0.25, (1, 0): 0.25, (1, 1): -0.7}.get((attempt, step), 0.0)
        style = "--" if not table.valid_action[row] else "-"
        axes.add_patch(
            FancyArrowPatch(
                start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=14,
                shrinkA=17, shrinkB=17 if step < 2 else 4, color=COLOURS[attempt], linestyle=style, linewidth=1.8,
            )
        )  # fmt: skip
        middle = (np.add(start, end)) / 2
        lift = {(0, 0): 0.47, (0, 1): 0.47, (0, 2): 0.16, (1, 0): -0.5, (1, 1): -1.0, (1, 2): 0.16}[attempt, step]
        label = f"{advantage[row]:+.2f}" if advantage[row] else "0"
        axes.text(middle[0], lift, label, color=COLOURS[attempt], ha="center", va="center")
    for name, centre in STATES.items():
        axes.add_patch(Circle(centre, 0.3, facecolor="#f7f7f7", edgecolor="#404040", zorder=3))
        axes.text(*centre, name, ha="center", va="center", zorder=4, weight="bold")
    axes.text(ENDS[0][0] + 0.1, 0, "wins 8", color=COLOURS[0], va="center")
    axes.text(ENDS[1][0] - 0.1, 0, "wins 0", color=COLOURS[1], va="center", ha="right")
    axes.text(2.2, 1.15, "first attempt", color=COLOURS[0], ha="center")
    axes.text(2.2, -1.4, "second attempt (dashed: the invalid action)", color=COLOURS[1], ha="center")
    axes.set(xlim=(-3.2, 7.6), ylim=(-1.7, 1.5), aspect="equal")
    axes.set_axis_off()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("credit.svg"))
