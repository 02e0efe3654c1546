"""Means over batches: by hand, and where they equal the plain mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.averages import batch_means

SETS = {
    "nq": 3610,
    "triviaqa": 11313,
    "popqa": 14267,
    "hotpotqa": 7405,
    "2wiki": 12576,
    "musique": 2417,
    "bamboogle": 125,
}


def test_the_last_question_of_a_set_may_count_as_much_as_all_others() -> None:
    # The official test file in batches of 512: 124 questions of Bamboogle end a batch, the last one is alone.
    kinds = [kind for kind, size in SETS.items() for _ in range(size)]
    rates = [float(kind == "bamboogle" and index % 2) for index, kind in enumerate(kinds)]
    rates[-1] = 1.0
    (most, alone) = batch_means(kinds, rates, 512)["bamboogle"]
    assert most == pytest.approx(62 / 124)
    assert alone == 1.0
    assert (most + alone) / 2 == pytest.approx(0.75)  # and 63 of 125 are .504


@pytest.mark.parametrize(("right", "published"), [(35, 64.1), (47, 68.9)])
def test_published_rates_of_bamboogle_are_such_means(right: int, published: float) -> None:
    kinds = ["others"] * (512 - 124) + ["bamboogle"] * 125
    rates = [0.0] * (512 - 124) + [1.0] * right + [0.0] * (124 - right) + [1.0]
    first, second = batch_means(kinds, rates, 512)["bamboogle"]
    assert 100 * (first + second) / 2 == pytest.approx(published, abs=0.06)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), min_size=1), st.integers(1, 12))
def test_a_batch_s_mean_is_that_of_its_own(pairs: list[tuple[str, int]], batch_size: int) -> None:
    kinds, values = [kind for kind, _ in pairs], [float(value) for _, value in pairs]
    for kind, means in batch_means(kinds, values, batch_size).items():
        expected = []
        for start in range(0, len(pairs), batch_size):
            own = [value for each, value in pairs[start : start + batch_size] if each == kind]
            expected += [sum(own) / len(own)] if own else []
        assert means == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_one_batch_has_the_plain_mean(values: list[float]) -> None:
    means = batch_means(["x"] * len(values), values, len(values))
    assert means == {"x": [pytest.approx(sum(values) / len(values))]}


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        batch_means([], [], 0)
