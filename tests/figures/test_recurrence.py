"""Which states recur, what they are called, and where attempts part ways."""

import numpy as np
import pytest

from gigpo_lightning.figures.recurrence import LETTERS, actions_by_credit, at_stake, decisive, letters, recurrences
from tests.figures.groups import credited, group_of


def test_states_that_are_met_more_than_once_are_found_in_the_order_of_their_first_visit():
    (episodes,) = credited(group_of(("cab", 0.0), ("axb", 9.0), ("dd", 0.0)))
    found = recurrences(episodes)
    assert [each.observation for each in found] == ["you are in a", "you are in b", "you are in d"]
    assert [[(visit.row, visit.step) for visit in each.visits] for each in found] == [
        [(0, 1), (1, 0)],
        [(0, 2), (1, 2)],
        [(2, 0), (2, 1)],
    ]


def test_letters_go_to_the_states_that_are_met_most_and_stay_in_order():
    states = [chr(0x4E00 + number) for number in range(len(LETTERS) + 3)]
    rare, often = "".join(states[:3]), "".join(states[3:])
    (episodes,) = credited(group_of((rare + often, 0.0), (often, 9.0), (rare + often, 0.0)))
    found = recurrences(episodes)
    named = letters(found)
    assert [named.get(each.step_group_id) for each in found] == [None, None, None, *LETTERS]


def test_a_state_in_which_nothing_differed_decided_nothing():
    (episodes,) = credited(group_of(("ab", 5.0), ("ab", 5.0)))
    assert decisive(recurrences(episodes), 3) == []


def test_a_state_that_one_episode_alone_met_decided_nothing_between_episodes():
    (episodes,) = credited(group_of(("aab", 5.0), ("cd", 0.0)))
    assert [each.observation for each in recurrences(episodes)] == ["you are in a"]
    assert decisive(recurrences(episodes), 3) == []


def test_a_state_in_which_all_did_the_same_decided_nothing_whatever_came_of_it():
    (episodes,) = credited(group_of(("ab", 0.1), ("ac", 0.2), ("ad", 0.3)))
    assert np.mean([each.step_advantage[0] for each in episodes]) != 0  # by a rounding step
    assert decisive(recurrences(episodes), 3) == []


def test_what_is_at_stake_is_the_worth_of_each_visit_s_action():
    (episodes,) = credited(group_of(("xa", 0.0), ("a", 9.0), ("xa", 4.0)))
    (state,) = decisive(recurrences(episodes), 3)
    # Returns in a are 0 and 4 by "go 1", 9 by "go 0"; their mean is 13/3.
    assert at_stake(state) == pytest.approx(abs(9 - 13 / 3) + 2 * abs(2 - 13 / 3))


def test_the_state_with_most_at_stake_comes_first_and_no_more_than_asked_for():
    (episodes,) = credited(group_of(("ab", 9.0), ("ba", 0.0), ("xab", 8.0)))
    ranked = decisive(recurrences(episodes), 3)
    assert len(ranked) == 2
    assert at_stake(ranked[0]) > at_stake(ranked[1])
    assert decisive(recurrences(episodes), 1) == ranked[:1]


def test_actions_are_ranked_by_the_mean_of_their_step_advantages():
    (episodes,) = credited(group_of(("xa", 0.0), ("a", 9.0), ("xa", 4.0)))
    state = next(each for each in recurrences(episodes) if each.observation == "you are in a")
    # Returns in a are 0 and 4 by "go 1", 9 by "go 0"; their mean is 13/3.
    assert [(action, round(credit, 6)) for action, credit in actions_by_credit(state)] == [
        ("go 0", round(9 - 13 / 3, 6)),
        ("go 1", round(2 - 13 / 3, 6)),
    ]
