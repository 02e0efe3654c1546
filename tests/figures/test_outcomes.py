"""How held-out episodes ended, by kind, and what changed between two evaluations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.figures import (
    EvaluatedEpisode,
    as_lines,
    changes_by_kind,
    draw_outcomes,
    outcomes_by_kind,
    with_total,
)
from gigpo_lightning.figures.outcomes import CHANGES, OUTCOMES, as_number, outcome
from tests.figures.test_group_figure import texts_outside


def episode(kind="near", success=False, stop_reason="max_steps", steps=10, invalid_actions=0, task_id="t"):
    return EvaluatedEpisode(
        task_id=task_id,
        kind=kind,
        success=success,
        stop_reason=stop_reason,
        steps=steps,
        invalid_actions=invalid_actions,
    )


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"success": True, "stop_reason": "terminated"}, "won"),
        ({"success": True, "stop_reason": "max_steps"}, "won"),
        ({"success": True, "invalid_actions": 9}, "won"),
        ({"stop_reason": "max_steps"}, "step limit"),
        ({"stop_reason": "terminated"}, "ended"),
        ({"stop_reason": "truncated"}, "cut off"),
        ({"stop_reason": "terminated", "invalid_actions": 5}, "invalid actions"),
        ({"stop_reason": "max_steps", "invalid_actions": 4}, "step limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(map(str, value.values())),
)
def test_an_episode_ends_in_one_way(fields, name):
    assert outcome(episode(**fields)) == name


def test_kinds_are_counted_apart_in_alphabetical_order():
    counts = outcomes_by_kind([episode(), episode("far", success=True), episode(), episode(stop_reason="terminated")])
    assert list(counts) == ["far", "near"]
    assert {name: count for name, count in counts["near"].items() if count} == {"step limit": 2, "ended": 1}
    assert tuple(counts["far"]) == OUTCOMES


def test_a_game_that_was_played_once_has_changed_or_not():
    before = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    after = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
    (changes,) = changes_by_kind(before, after, dict.fromkeys("abcd", "near")).values()
    assert changes == dict.fromkeys(CHANGES, 1.0)


def test_a_game_that_was_played_four_times_counts_in_parts():
    (changes,) = changes_by_kind({"a": 0.75}, {"a": 0.5}, {"a": "near"}).values()
    assert list(changes.values()) == [0.5, 0.0, 0.25, 0.25]


rates = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(rates, rates)
def test_changes_keep_both_rates_and_count_each_common_game_once(before, after):
    kinds = {game: "near" if game < "c" else "far" for game in after}
    changes = changes_by_kind(before, after, kinds)
    total = {name: sum(of_kind[name] for of_kind in changes.values()) for name in CHANGES}
    common = before.keys() & after.keys()
    assert sum(total.values()) == pytest.approx(len(common))
    assert total["won both"] + total["won only before"] == pytest.approx(sum(before[game] for game in common))
    assert total["won both"] + total["won only now"] == pytest.approx(sum(after[game] for game in common))


def test_a_total_is_added_where_there_are_several_kinds():
    near, far = {"won": 1.0, "ended": 2.0}, {"won": 3.0, "ended": 0.0}
    assert with_total({"near": near}) == {"near": near}
    assert with_total({"near": near, "far": far})["all"] == {"won": 4.0, "ended": 2.0}


def test_no_kind_has_no_lines():
    assert as_lines({}) == []


@pytest.mark.parametrize(("count", "text"), [(3.0, "3"), (2.25, "2.2"), (0.99, "1"), (0.0, "0")])
def test_a_count_has_decimals_only_where_it_must(count: float, text: str):
    assert as_number(count) == text


MANY = [episode(f"a kind with a name that is far too long {number}") for number in range(12)]


@pytest.mark.parametrize("episodes", [[episode()], [episode(), episode("$far$")], MANY], ids=["one", "two", "twelve"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_nothing_of_the_figure_is_cut_off(episodes, again):
    ends = outcomes_by_kind(episodes)
    changes = {kind: dict.fromkeys(CHANGES, 1.0) for kind in ends} if again else {}
    title = "held-out valid_unseen at version 123456, 480 episodes; the first evaluation was at version 0"
    assert texts_outside(draw_outcomes(ends, changes, title)) == []


def test_the_figure_has_a_cell_for_every_outcome_and_every_change():
    ends = outcomes_by_kind([episode(), episode("far")])
    figure = draw_outcomes(ends, {kind: dict.fromkeys(CHANGES, 1.0) for kind in ends}, "title")
    assert [len(axes.texts) for axes in figure.axes] == [3 * len(OUTCOMES), 3 * len(CHANGES)]


def test_without_an_earlier_evaluation_there_is_nothing_to_compare():
    assert len(draw_outcomes(outcomes_by_kind([episode()]), {}, "title").axes) == 1


def test_no_kind_is_refused():
    with pytest.raises(ValueError, match="ends must have at least one kind, got 0"):
        draw_outcomes({}, {}, "title")
