"""Each step is in one bucket: that of its anchor group's size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gigpo_lightning.figures import anchor_group_sizes, group_size_shares
from gigpo_lightning.figures.group_sizes import BUCKETS

PREFIX = "anchors/group_size_share/"
ids = arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 30))


def groups_of_size(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def test_the_shares_are_of_steps_and_not_of_groups():
    shares = group_size_shares(groups_of_size(1, 1, 2, 6))  # four groups, ten steps
    assert [shares[PREFIX + name] for name in BUCKETS] == pytest.approx([0.2, 0.2, 0.6, 0.0, 0.0])


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(1, "1"), (2, "2-5"), (5, "2-5"), (6, "6-10"), (10, "6-10"), (11, "11-50"), (50, "11-50"), (51, "over_50")],
)
def test_buckets_share_no_size_and_leave_none_out(size: int, bucket: str):
    shares = group_size_shares(groups_of_size(size))
    assert {name for name, share in shares.items() if share} == {PREFIX + bucket}


@given(ids)
def test_the_shares_sum_to_one_and_their_first_is_that_of_singletons(step_group_id: np.ndarray):
    shares = group_size_shares(step_group_id)
    assert sum(shares.values()) == pytest.approx(1.0)
    alone = [np.count_nonzero(step_group_id == each) == 1 for each in step_group_id]
    assert shares[f"{PREFIX}1"] == pytest.approx(np.mean(alone))


@given(ids)
def test_the_sizes_of_groups_sum_to_the_steps_and_none_is_empty(step_group_id: np.ndarray):
    sizes = anchor_group_sizes(step_group_id)
    assert sizes.sum() == len(step_group_id)
    assert sizes.min() >= 1


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="step_group_id must have at least one step, got 0"):
        group_size_shares(np.zeros(0, dtype=np.int64))
