"""States as anchors: equal states have equal texts, whatever they are made of, and other states have others."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.environments.anchors import state_key

leaves = st.none() | st.booleans() | st.integers() | st.text()
states = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@dataclass
class Place:
    row: int
    seen: frozenset


class Way(Enum):
    UP = "up"


def test_a_text_is_its_own_key():
    assert state_key("a room") == "a room"


@settings(max_examples=25)
@given(st.dictionaries(st.text(), states), st.randoms())
def test_the_order_of_a_dictionary_is_no_part_of_a_state(state, random):
    items = list(state.items())
    random.shuffle(items)
    assert state_key(dict(items)) == state_key(state)


@given(states, states)
def test_states_that_differ_have_keys_that_differ(one, other):
    if json.dumps([one], sort_keys=True) != json.dumps([other], sort_keys=True) and not isinstance(one, str):
        assert state_key([one]) != state_key([other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([[1, 2]]), [[1, 2]]),
        (np.int64(3), 3),
        ({"b", "a"}, ["a", "b"]),
        (Place(1, frozenset({2})), {"row": 1, "seen": [2]}),
        (OrderedDict(a=Way.UP), {"a": "up"}),
        ({(1, 2): b"\x0a"}, {"[1, 2]": "0a"}),
    ],
)
def test_what_stands_for_the_same_has_the_same_key(one, other):
    assert state_key(one) == state_key(other)


def test_ignored_keys_are_left_out_at_the_top_alone():
    state = {"step_count": 3, "room": {"step_count": 3}}
    assert state_key(state, ignored=["step_count"]) == '{"room": {"step_count": 3}}'


def test_an_object_whose_text_would_be_its_address_is_refused():
    with pytest.raises(ValueError, match=r"a state must be made of numbers, .* got a builtins\.object"):
        state_key({"a": [object()]})
