"""JSON from elsewhere is read strictly, or refused by what is wrong with it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.strict_json import load_json

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(values)
def test_what_is_json_reads_as_it_does_elsewhere(value: object) -> None:
    assert load_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": [{"c": 1, "c": 2}]}', "the key 'c' stands twice"),
        (b"[NaN]", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[" * 100_000, "nested too deep"),
        (b"\xff", "decode"),
        ("", "Expecting value"),
    ],
)
def test_what_is_not_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_json(text)
