import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import chain, count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import Credit, GiGPO
from gigpo_lightning.batch import (
    Minibatch,
    MinibatchBy,
    StepBatch,
    TokenCounts,
    make_minibatches,
    make_step_batch,
    plan_minibatches,
    prepare,
    step_rows,
)
from gigpo_lightning.countdown import Countdown
from gigpo_lightning.token_trees import RowRules, plan_micro_batches, token_trees
from gigpo_lightning.trajectory import Step, StepTable, TrajectoryGroup
from tests.episodes import group, step, trajectory
from tests.scripted_run import tiny_module

PAD = 99
SHARES = [1.0, 1.0, 0.5, 0.5]
STEPS = [step([1, 2], [3, 4]), step([5], [6]), step([7, 8, 9, 10], [])]


def credit_of(advantage: list[float]) -> Credit:
    values = np.array(advantage)
    return Credit(
        advantage=values,
        episode_advantage=values,
        step_advantage=np.zeros(len(values)),
        step_group_id=np.arange(len(values)),
        metrics={},
    )


CREDIT = credit_of([0.5, -1.5, 2.0])


def two_steps(credit: Credit) -> StepBatch:
    """The second step, then the first."""
    return batch_of(STEPS, [1, 0], credit)


def batch_of(steps: Sequence[Step], rows: list[int], credit: Credit) -> StepBatch:
    """Some steps, each in a row of its own and in this order."""
    (trees,) = plan_micro_batches(
        token_trees([(steps[row].prompt_ids, steps[row].completion_ids) for row in rows], rows), 1000
    )
    return make_step_batch(sorted(trees, key=lambda row: row[0].pairs), rows, steps, SHARES, credit, PAD)


@pytest.mark.parametrize(
    ("tensor", "values"),
    [
        ("advantage", [[-1.5, 0.0], [0.5, 0.5]]),
        ("row_weight", [1.0, 1.0]),
        ("row", [1, 0]),
    ],
)
def test_two_steps_as_tensors_by_hand(tensor: str, values: list[Any]) -> None:
    assert getattr(two_steps(CREDIT), tensor).tolist() == values


def test_a_step_s_clip_scale_goes_with_it() -> None:
    scaled = replace(CREDIT, clip_scale=np.array([0.7, 1.3, 1.0]))
    batch = two_steps(scaled).to(torch.device("cpu"))
    assert batch.clip_scale is not None
    torch.testing.assert_close(batch.clip_scale, torch.tensor([1.3, 0.7]))


def test_without_clip_scales_there_are_none() -> None:
    assert two_steps(CREDIT).clip_scale is None


def test_the_sampler_s_logprobs_lie_where_its_tokens_do() -> None:
    batch = two_steps(CREDIT)
    torch.testing.assert_close(batch.old_logprobs, torch.tensor([[-0.06, 0], [-0.03, -0.04]]))


def test_logprobs_that_do_not_match_the_tokens_are_refused() -> None:
    steps = [*STEPS, step([1], [2, 3, 4], logprobs=(-0.5,))]
    with pytest.raises(ValueError, match="logprobs must match completion_ids, got 1 for 3 tokens in row 3"):
        batch_of(steps, [0, 3], credit_of([0.0] * 4))


def test_logprobs_may_not_slip_from_one_row_into_the_next() -> None:
    steps = [step([1], [2, 3], logprobs=(-0.1,)), step([1], [2, 3], logprobs=(-0.1, -0.2, -0.3))]
    with pytest.raises(ValueError, match="got 1 for 2 tokens in row 0"):
        batch_of(steps, [0, 1], CREDIT)


def test_moving_a_batch_moves_every_tensor() -> None:
    batch = batch_of(STEPS, [0], CREDIT).to(torch.device("meta"))
    tensors = [getattr(part, field.name) for part in (batch, batch.tokens) for field in fields(part)]
    assert {each.device.type for each in tensors if isinstance(each, torch.Tensor)} == {"meta"}


def rollout() -> list[TrajectoryGroup]:
    """Two groups of two episodes of lengths 1 to 4, every step with a token of its own."""
    token = iter(range(100))

    def episode(length: int) -> list[Step]:
        return [step([next(token)] * (i + 1), [next(token)] * (1 + i % 2), reward=float(i)) for i in range(length)]

    return [group(*(trajectory(*episode(length)) for length in lengths)) for lengths in ((3, 1), (4, 2))]


def test_steps_come_in_the_table_s_row_order() -> None:
    groups = rollout()
    assert [s.reward for s in step_rows(groups)] == StepTable.from_groups(groups).reward.tolist()


def minibatches(size: int | None = 4, seed: int = 0, budget: int = 12) -> list[Minibatch]:
    groups = rollout()
    credit = GiGPO().estimate(StepTable.from_groups(groups))
    return make_minibatches(
        groups,
        credit,
        pad_token_id=PAD,
        temperature=1.0,
        minibatch_size=size,
        micro_batch_tokens=budget,
        seed=seed,
    )


def rows_of(minibatch: Minibatch) -> list[int]:
    return [row for part in minibatch.micro_batches for row in part.row.tolist()]


def test_every_step_is_in_one_minibatch_once() -> None:
    assert sorted(row for minibatch in minibatches() for row in rows_of(minibatch)) == list(range(10))


def test_every_step_keeps_its_own_advantage() -> None:
    expected = GiGPO().estimate(StepTable.from_groups(rollout())).advantage
    for minibatch in minibatches():
        for part in minibatch.micro_batches:
            spread = expected[part.row.numpy()][:, None] * part.tokens.action_mask.numpy()
            np.testing.assert_allclose(part.advantage, spread, rtol=1e-6)


def test_a_minibatch_counts_the_tokens_that_were_written() -> None:
    for minibatch in minibatches():
        assert minibatch.counts.num_tokens == sum(
            int(part.tokens.action_mask.sum()) for part in minibatch.micro_batches
        )


def test_a_minibatch_counts_its_steps() -> None:
    assert all(minibatch.counts.num_rows == len(rows_of(minibatch)) for minibatch in minibatches())


def test_a_micro_batch_stays_within_its_budget() -> None:
    assert all(part.tokens.input_ids.numel() <= 12 for minibatch in minibatches() for part in minibatch.micro_batches)


def test_the_same_seed_deals_the_same_minibatches() -> None:
    assert [rows_of(minibatch) for minibatch in minibatches()] == [rows_of(minibatch) for minibatch in minibatches()]


def test_another_seed_deals_others() -> None:
    assert [set(rows_of(m)) for m in minibatches(seed=0)] != [set(rows_of(m)) for m in minibatches(seed=1)]


def test_without_a_size_all_steps_are_one_minibatch() -> None:
    assert [minibatch.counts.num_rows for minibatch in minibatches(size=None)] == [10]


def test_credit_of_another_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="credit must have one row per step, got 3 for 10 steps"):
        make_minibatches(
            rollout(), CREDIT, pad_token_id=PAD, temperature=1.0, minibatch_size=4, micro_batch_tokens=12, seed=0
        )


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 9))
def test_minibatches_hold_every_row_once(num_rows: int, size: int, seed: int) -> None:
    plan = plan_minibatches([1] * num_rows, size, seed)
    assert sorted(row for rows in plan for row in rows) == list(range(num_rows))


@given(st.integers(1, 200), st.integers(1, 50))
def test_minibatches_are_as_few_as_the_size_allows(num_rows: int, size: int) -> None:
    plan = plan_minibatches([1] * num_rows, size, seed=0)
    assert len(plan) == -(-num_rows // size)


@given(st.integers(1, 200), st.integers(1, 50))
def test_minibatches_are_equal_but_for_one_row(num_rows: int, size: int) -> None:
    sizes = {len(rows) for rows in plan_minibatches([1] * num_rows, size, seed=0)}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_minibatches_are_shuffled() -> None:
    assert plan_minibatches([1] * 50, None, seed=0)[0] != list(range(50))


episodes = st.lists(st.integers(1, 20), min_size=1, max_size=30)


@given(episodes, st.integers(1, 50), st.integers(0, 9))
def test_minibatches_of_episodes_hold_every_row_once_and_each_episode_whole(
    lengths: list[int], size: int, seed: int
) -> None:
    plan = plan_minibatches(lengths, size, seed)
    assert sorted(row for rows in plan for row in rows) == list(range(sum(lengths)))
    ends = np.cumsum(lengths)
    for rows in plan:
        assert rows
        for end, length in zip(ends.tolist(), lengths, strict=True):
            assert len(set(range(end - length, end)) & set(rows)) in (0, length)


@given(episodes, st.integers(1, 50))
def test_a_minibatch_of_episodes_is_at_most_an_episode_larger_than_its_size(lengths: list[int], size: int) -> None:
    assert max(len(rows) for rows in plan_minibatches(lengths, size, seed=0)) <= size + max(lengths)


def test_no_rows_make_no_minibatch() -> None:
    assert plan_minibatches([], None, seed=0) == []


def test_a_minibatch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="minibatch_size must be >= 1, got 0"):
        plan_minibatches([1] * 5, 0, seed=0)


def dealt(
    lengths: list[list[list[int]]], size: int | None = 5, by: MinibatchBy = "steps"
) -> tuple[list[list[Minibatch]], list[Minibatch]]:
    """Minibatches of each of several ranks, and of one process that has played the same groups in the tasks' order."""
    token = iter(range(10_000))
    by_rank = [
        [group(*(trajectory(*(step([next(token)], [1]) for _ in range(n))) for n in of_group)) for of_group in of_rank]
        for of_rank in lengths
    ]
    options: dict[str, Any] = {
        "pad_token_id": PAD, "temperature": 1.0, "minibatch_size": size, "micro_batch_tokens": 6, "seed": 3,
        "minibatch_by": by,
    }  # fmt: skip
    told: list[list[Any]] = [[], []]  # what each rank has to say in the first and in the second exchange

    def cut(rank: int, groups: list[TrajectoryGroup], gather: Any) -> list[Minibatch]:
        credit = GiGPO().estimate(StepTable.from_groups(groups))
        return make_minibatches(groups, credit, rank=rank, gather=gather, **options)

    class Told(Exception):
        """A rank has said what was still to be heard."""

    for exchange in range(2):
        for rank, groups in enumerate(by_rank):
            turn = iter(range(2))

            def say(value: Any, turn: Any = turn, exchange: int = exchange) -> list[Any]:
                if (now := next(turn)) == exchange:
                    told[exchange].append(value)
                    raise Told
                return told[now]

            with pytest.raises(Told):
                cut(rank, groups, say)
    heard = []
    for rank, groups in enumerate(by_rank):
        answers = iter(told)
        heard.append(cut(rank, groups, lambda _, answers=answers: next(answers)))
    turns = range(max(map(len, by_rank)))
    whole = [groups[turn] for turn in turns for groups in by_rank if turn < len(groups)]
    return heard, cut(0, whole, lambda value: [value])


UNEVEN = [[[9, 9], [9, 9]], [[1, 1], [1, 2], [1, 1]]]


def prompts(minibatch: Minibatch) -> list[int]:
    """The first token of every step, which tells it from all others."""
    return sorted(
        int(part.tokens.input_ids.flatten()[part.tokens.source[i, 0]])
        for part in minibatch.micro_batches
        for i in range(len(part.row))
        if part.row_weight[i]
    )


@pytest.mark.parametrize("by", ["steps", "episodes"])
@pytest.mark.parametrize("size", [1, 5, None])
def test_ranks_together_deal_the_minibatches_of_one_process(size: int | None, by: MinibatchBy) -> None:
    ranks, alone = dealt(UNEVEN, size, by)
    assert [sorted(chain(*map(prompts, parts))) for parts in zip(*ranks, strict=True)] == [*map(prompts, alone)]


@pytest.mark.parametrize("by", ["steps", "episodes"])
@pytest.mark.parametrize("size", [1, 5, None])
def test_ranks_count_what_all_of_them_hold(size: int | None, by: MinibatchBy) -> None:
    ranks, alone = dealt(UNEVEN, size, by)
    for parts, whole in zip(zip(*ranks, strict=True), alone, strict=True):
        for part in parts:
            assert (part.counts.num_tokens, part.counts.num_rows) == (whole.counts.num_tokens, whole.counts.num_rows)
            assert part.counts.num_trajectories == pytest.approx(whole.counts.num_trajectories)
            assert part.token_counts.distinct == whole.token_counts.distinct
            assert part.token_counts.of_rows == whole.token_counts.of_rows == 2 * whole.counts.num_rows


@pytest.mark.parametrize("by", ["steps", "episodes"])
@pytest.mark.parametrize("size", [1, 5, None])
def test_ranks_have_equally_many_micro_batches(size: int | None, by: MinibatchBy) -> None:
    ranks, _ = dealt(UNEVEN, size, by)
    for one, other in zip(*ranks, strict=True):
        assert len(one.micro_batches) == len(other.micro_batches)
    filling = [part for rank in ranks for minibatch in rank for part in minibatch.micro_batches if part.row[0] == -1]
    assert filling
    assert not any(part.row_weight.any() for part in filling)


def conversations() -> list[TrajectoryGroup]:
    """Two groups of two episodes of three growing turns; those of a group begin alike, and so do the groups."""

    def episode(number: int) -> list[Step]:
        return [step([1, 2, *([number, turn] * turn)], [number]) for turn in range(3)]

    return [
        replace(group(*(trajectory(*episode(number)) for number in numbers)), task_id=name)
        for name, numbers in (("a", (3, 4)), ("b", (3, 5)))
    ]


def counted(by: MinibatchBy, size: int | None, rules: RowRules) -> TokenCounts:
    groups = conversations()
    credit = GiGPO().estimate(StepTable.from_groups(groups))
    cut = make_minibatches(
        groups, credit, pad_token_id=PAD, temperature=1.0, minibatch_size=size, micro_batch_tokens=1000, seed=0,
        minibatch_by=by, rules=rules,
    )  # fmt: skip
    return TokenCounts.of(cut)


def test_tokens_are_counted_by_hand() -> None:
    # Lengths of an episode's steps: 3, 5, 7. The first begins 1 2 n, the second 1 2 n 1 n, the third 1 2 n 2 n 2 n.
    distinct = 2 * (2 + 2 * (1 + 2 + 4))
    shared = counted("episodes", None, RowRules(one_row=True))
    assert (shared.computed, shared.distinct, shared.of_rows) == (distinct, distinct, 4 * 15)
    assert shared.metrics() == {"update/tokens": 32, "update/distinct_tokens": 32, "update/sharing": 60 / 32}
    plain = counted("episodes", None, RowRules(shared=False, one_row=True))
    assert (plain.computed, plain.distinct, plain.of_rows) == (60, distinct, 60)


def test_filling_counts_as_computed() -> None:
    assert counted("steps", None, RowRules(shared=False)).computed == 12 * 7


def test_minibatches_of_episodes_compute_less_than_those_of_steps() -> None:
    by_steps, by_episodes = (counted(by, 3, RowRules(one_row=True)) for by in ("steps", "episodes"))
    assert by_episodes.computed < by_steps.computed
    assert by_episodes.computed == 4 * (2 + 1 + 2 + 4)  # each episode alone, and once


def test_a_slow_look_before_the_update_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tiny_module().policy
    policy.rescores = True
    batches = minibatches(size=5, budget=1000)
    scores = iter([torch.zeros(part.old_logprobs.shape) for each in batches for part in each.micro_batches])
    monkeypatch.setattr(policy, "score", lambda tokens, temperature: (scored := next(scores), scored))
    seconds = count(0, 30)
    monkeypatch.setattr("gigpo_lightning.batch.Countdown", partial(Countdown, clock=lambda: float(next(seconds))))
    with caplog.at_level(logging.INFO, "gigpo_lightning"):
        prepare(batches, policy)
    assert caplog.messages == ["before the update: minibatch 2 of 2, about 30 s left"]
