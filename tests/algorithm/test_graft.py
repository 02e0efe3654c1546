"""GRAFT: hand examples of the specification, its definition as loops, and what it refuses."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.algorithm import GRAFT
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.oracle import relative
from tests.algorithm.tables import ending, step_tables, table_of, valid, won

# Two episodes go a, b: one of them on to G, where it wins, the other to c, where it loses.
FORK = ending(won(table_of((0, valid("ab", [0, 10])), (0, valid("ab", [0, 0]))), 0), "G", "c")
# One episode wins in b; the other goes on through b to c, where it loses.
THROUGH = ending(won(table_of((0, valid("a", [10])), (0, valid("ab", [0, 0]))), 0), "b", "c")


@pytest.mark.parametrize("trace_decay", [0.0, 0.5])
def test_the_gains_of_a_fork_by_hand(trace_decay: float) -> None:
    credit = GRAFT(discount=0.9, trace_decay=trace_decay, normalise=False).estimate(FORK)
    np.testing.assert_allclose(credit.advantage, [0, 0.45, 0, -0.45], atol=1e-12)


def test_a_fork_compared_by_hand() -> None:
    credit = GRAFT(discount=0.9, trace_decay=0.5).estimate(FORK)
    np.testing.assert_allclose(credit.advantage, [0, 0.7071, 0, -0.7071], atol=1e-4)


def test_an_end_that_another_episode_passes_by_hand() -> None:
    credit = GRAFT(discount=0.9, trace_decay=0.5, normalise=False).estimate(THROUGH)
    np.testing.assert_allclose(credit.advantage, [0, -0.45, -1], atol=1e-12)


def test_an_end_that_another_episode_passes_compared_by_hand() -> None:
    credit = GRAFT(discount=0.9, trace_decay=0.5).estimate(THROUGH)
    np.testing.assert_allclose(credit.advantage, [0.7071, -0.7071, -1], atol=1e-4)


def test_it_is_all_step_level() -> None:
    credit = GRAFT().estimate(FORK)
    assert not credit.episode_advantage.any()
    np.testing.assert_array_equal(credit.step_advantage, credit.advantage)


def test_where_all_fail_nothing_is_learnt() -> None:
    assert not GRAFT().estimate(replace(THROUGH, success=np.zeros(3, dtype=bool))).advantage.any()


def oracle(table: StepTable, discount: float, trace_decay: float, normalise: bool) -> list[float]:
    """The advantage of every row, one task, one row and one hop at a time."""
    advantage = [0.0] * len(table)
    assert table.next_anchor_key is not None
    source, target = table.anchor_key, table.next_anchor_key
    for task in np.unique(table.episode_group_id):
        rows = [i for i in range(len(table)) if table.episode_group_id[i] == task]
        leaving: dict[Any, list[int]] = defaultdict(list)
        for i in rows:
            leaving[source[i]].append(i)
        value = swept_values(table, rows, leaving, discount)
        gain = {i: discount * value[target[i]] - value[source[i]] for i in rows}
        for i in rows:
            advantage[i], nodes = gain[i], {target[i]}
            for hop in range(1, to_come(table, i) + 1):
                edges = [j for node in nodes for j in leaving[node]]
                if edges:
                    advantage[i] += (discount * trace_decay) ** hop * sum(gain[j] for j in edges) / len(edges)
                nodes = {target[j] for j in edges}
        raw = {i: round(advantage[i], 9) for i in rows}  # what is equal but for rounding is equal
        for i in rows if normalise else ():
            others = [raw[j] for j in leaving[source[i]]]
            alone = raw[i] / (abs(raw[i]) + 1e-6)
            advantage[i] = alone if len(others) == 1 else relative(raw[i], others, True)
    return advantage


def to_come(table: StepTable, i: int) -> int:
    """Steps of a row's episode after it."""
    own = table.step_index[table.trajectory_id == table.trajectory_id[i]]
    return int(own.max() - table.step_index[i])


def swept_values(table: StepTable, rows: list[int], leaving: dict[Any, list[int]], discount: float) -> dict[Any, float]:
    """Sweep over the states until their values stand still; those of the ends are known."""
    assert table.next_anchor_key is not None
    target, outcomes = table.next_anchor_key, defaultdict(list)
    for i in rows:
        if not to_come(table, i):
            outcomes[target[i]].append(float(table.success[i]))
    value: dict[Any, float] = defaultdict(float)
    value |= {node: sum(each) / len(each) for node, each in outcomes.items()}
    change = 1.0
    while change > 1e-14:
        change = 0.0
        for node in leaving.keys() - outcomes.keys():
            new = sum(discount * value[target[i]] for i in leaving[node]) / len(leaving[node])
            change, value[node] = max(change, abs(new - value[node])), new
    return value


@st.composite
def ended_tables(draw: st.DrawFn) -> StepTable:
    """Tables whose episodes end where others pass, where others end, and where nobody else was."""
    table = draw(step_tables())
    number = len(set(table.trajectory_id.tolist()))
    return ending(table, *draw(st.lists(st.sampled_from("abcdef"), min_size=number, max_size=number)))


@settings(max_examples=60)
@given(ended_tables(), st.sampled_from([0.3, 0.9, 0.99]), st.sampled_from([0.0, 0.6, 1.0]))
def test_it_equals_its_definition(table: StepTable, discount: float, trace_decay: float) -> None:
    credit = GRAFT(discount=discount, trace_decay=trace_decay, normalise=False).estimate(table)
    np.testing.assert_allclose(credit.advantage, oracle(table, discount, trace_decay, False), atol=1e-10)


@settings(max_examples=50)
@given(ended_tables())
def test_compared_it_equals_its_definition(table: StepTable) -> None:
    credit = GRAFT(discount=0.9, trace_decay=0.6).estimate(table)
    np.testing.assert_allclose(credit.advantage, oracle(table, 0.9, 0.6, True), atol=2e-3)


def test_circles_are_walked_hop_by_hop() -> None:
    """The states that can be reached come round again and again, and never stand still."""
    circles = won(table_of((0, valid("abc" * 12, [0] * 36)), (0, valid("abc" * 5, [0] * 15))), 0)
    table = ending(circles, "b", "d")
    credit = GRAFT(discount=0.9, trace_decay=0.9, normalise=False).estimate(table)
    np.testing.assert_allclose(credit.advantage, oracle(table, 0.9, 0.9, False), atol=1e-12)


def test_sets_of_many_states_are_walked_hop_by_hop() -> None:
    """Two tasks of more states than a word has bits; two episodes of each end where others pass."""
    draw = np.random.default_rng(0)
    episodes = [(task, [(int(state), 0.0, True) for state in draw.integers(90, size=20)]) for task in (0, 1) * 6]
    ends = [int(state) for state in draw.integers(200, size=12)]
    table = ending(won(table_of(*episodes), 0, 3, 5, 6), *ends)
    credit = GRAFT(discount=0.95, trace_decay=0.95, normalise=False).estimate(table)
    assert len(set(table.anchor_key.tolist())) > 64
    assert (credit.advantage != GRAFT(discount=0.95, trace_decay=0.0, normalise=False).estimate(table).advantage).any()
    np.testing.assert_allclose(credit.advantage, oracle(table, 0.95, 0.95, False), atol=1e-12)


def test_a_table_that_does_not_know_its_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="column next_anchor_key must say where every step led, but the table has no"):
        GRAFT().estimate(replace(FORK, next_anchor_key=None))


def test_an_episode_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must say where every episode ended, got None at the end of trajectory 1$"):
        GRAFT().estimate(ending(FORK, "G", None))


@pytest.mark.parametrize(("name", "value"), [("discount", 1.0), ("discount", 0.0), ("trace_decay", 1.5)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in"):
        GRAFT(**{name: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_many_tasks_get_what_each_gets_alone() -> None:
    """More steps than one block of tasks takes."""
    several = [(task, valid("ab" * 700, [0] * 1400)) for task in range(8)]
    table = ending(won(table_of(*several), 0, 3, 7), *"aebdaeba")
    whole = GRAFT().estimate(table).advantage
    for task in (0, 5, 7):
        rows = np.flatnonzero(table.episode_group_id == task)
        np.testing.assert_array_equal(GRAFT().estimate(table.take(rows)).advantage, whole[rows])
