"""Step tables for the tests: written by hand, drawn by hypothesis, put into another order."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gigpo_lightning.trajectory import StepTable

Row = tuple[Hashable, float, bool]
"""Anchor, reward, whether the action was valid."""


def table_of(*episodes: tuple[int, Sequence[Row]]) -> StepTable:
    """A table of (episode group, steps) pairs, one trajectory each."""
    rows = [(group, t, i, *row) for t, (group, steps) in enumerate(episodes) for i, row in enumerate(steps)]
    group, trajectory, step, anchor, reward, valid = zip(*rows, strict=True)
    anchors = np.empty(len(rows), dtype=object)
    anchors[:] = anchor
    return StepTable(
        episode_group_id=np.array(group),
        trajectory_id=np.array(trajectory),
        step_index=np.array(step),
        anchor_key=anchors,
        reward=np.array(reward, dtype=np.float64),
        valid_action=np.array(valid),
        success=np.zeros(len(rows), dtype=bool),
        policy_version=np.zeros(len(rows), dtype=np.int64),
    )


def valid(anchors: Sequence[str], rewards: Sequence[float]) -> list[Row]:
    """Steps with a letter or a word as anchor each, all valid."""
    return [(anchor, reward, True) for anchor, reward in zip(anchors, rewards, strict=True)]


def take(table: StepTable, rows: Any) -> StepTable:
    """The table's rows in the order asked for."""
    return table.take(rows)


def won(table: StepTable, *trajectories: int) -> StepTable:
    """The same table, in which these trajectories succeeded."""
    return replace(table, success=np.isin(table.trajectory_id, trajectories))


_rewards = st.sampled_from([-1.0, 0.0, 0.1, 0.5, 1.0, 10.0])
_steps = st.lists(st.tuples(st.sampled_from("abcd"), _rewards, st.booleans()), min_size=1, max_size=6)


def ending(table: StepTable, *ends: Hashable) -> StepTable:
    """The same table, in which each trajectory's last action led to such a state, in the order of their numbers."""
    reached = np.empty(len(table), dtype=object)
    for number, end in zip(np.unique(table.trajectory_id), ends, strict=True):
        rows = np.flatnonzero(table.trajectory_id == number)
        rows = rows[np.argsort(table.step_index[rows])]
        reached[rows[:-1]] = table.anchor_key[rows[1:]]
        reached[rows[-1]] = end
    return replace(table, next_anchor_key=reached)


@st.composite
def step_tables(draw: st.DrawFn) -> StepTable:
    """A few groups of a few episodes that meet in few states and sometimes succeed, rows in any order."""
    groups = draw(st.lists(st.lists(_steps, min_size=1, max_size=4), min_size=1, max_size=3))
    table = table_of(*((2 * number + 1, steps) for number, episodes in enumerate(groups) for steps in episodes))
    table = won(table, *draw(st.sets(st.sampled_from(sorted(set(table.trajectory_id.tolist()))))))
    return take(table, draw(st.permutations(range(len(table)))))


@st.composite
def ending_tables(draw: st.DrawFn) -> StepTable:
    """Such tables that know where episodes ended: mostly in states that others pass through, or end in as well."""
    table = draw(step_tables())
    num_trajectories = len(set(table.trajectory_id.tolist()))
    ends = st.sampled_from(["a", "b", "c", "d", "end", "other end", None])
    return ending(table, *draw(st.lists(ends, min_size=num_trajectories, max_size=num_trajectories)))
