"""From episodes and their credit to the tensors of an update.

Shape letters: S = steps of a micro-batch, R = tokens of its longest reply; ``token_batch`` has those of its rows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from gigpo_lightning.algorithm.advantages import Credit
from gigpo_lightning.algorithm.losses import BatchCounts
from gigpo_lightning.algorithm.token_credit import TokenCredit, TokenFacts
from gigpo_lightning.countdown import Countdown
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.ranks import gather, interleave
from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from gigpo_lightning.token_trees import RowRules, TokenTree, plan_micro_batches, token_trees
from gigpo_lightning.trajectory import Step, Trajectory, TrajectoryGroup

MinibatchBy = Literal["steps", "episodes"]
"""What stays whole where an epoch is cut into minibatches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepBatch:
    """Steps as tensors: the tokens of their prompts and replies, and what the loss wants to know of each reply.

    Attributes:
        tokens: Prompts and replies; the stop token is of the reply.
        old_logprobs: The log-probabilities that ratios are taken to, 0 off the mask, ``(S, R)``: the engine's, unless
            the trainer has computed its own.
        engine_logprobs: The engine's log-probabilities of those tokens, 0 elsewhere, ``(S, R)``.
        advantage: Of each written token, 0 elsewhere, ``(S, R)``: its step's, unless a ``TokenCredit`` spreads it.
        trajectory_share: One over the number of steps of its trajectory, ``(S,)``.
        row_weight: 1, or 0 for a step that only fills up, ``(S,)``.
        row: The step's row in the rollout's table, -1 for one that only fills up, ``(S,)``.
        clip_scale: Multiplies both clip ranges of the step, ``(S,)``; None unless its credit has some.
    """

    tokens: TokenBatch
    old_logprobs: Float32[Tensor, "S R"]
    engine_logprobs: Float32[Tensor, "S R"]
    advantage: Float32[Tensor, "S R"]
    trajectory_share: Float32[Tensor, " S"]
    row_weight: Float32[Tensor, " S"]
    row: Int64[Tensor, " S"]
    clip_scale: Float32[Tensor, " S"] | None = None

    def to(self, device: torch.device) -> "StepBatch":
        """The same batch on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return StepBatch(**{name: part.to(device) for name, part in parts.items() if part is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of an update.

    Attributes:
        computed: Places of all rows, what fills them up and what is repeated among them.
        distinct: Beginnings of sequences that differ, (task, prefix): what has to be computed at least.
        of_rows: Tokens of all prompts and replies, each step by itself.
    """

    computed: int = 0
    distinct: int = 0
    of_rows: int = 0

    @classmethod
    def of(cls, minibatches: Iterable["Minibatch"]) -> "TokenCounts":
        """Those of some minibatches together."""
        return sum((minibatch.token_counts for minibatch in minibatches), cls())

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(
            computed=self.computed + other.computed,
            distinct=self.distinct + other.distinct,
            of_rows=self.of_rows + other.of_rows,
        )

    def metrics(self) -> dict[str, float]:
        """Its figures by their names; ``update/sharing`` is what was saved: tokens of one row a step, over computed."""
        return {
            "update/tokens": float(self.computed),
            "update/distinct_tokens": float(self.distinct),
            "update/sharing": self.of_rows / max(1, self.computed),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch:
    """The steps of one optimizer step, in micro-batches that fit.

    Attributes:
        micro_batches: Together they hold every step of this rank once; of every rank there are equally many.
        counts: What all of them hold, on all ranks.
        token_counts: Tokens that all of them take, on all ranks.
        temperature: Temperature that replies were drawn at; 1 for greedy ones, whose noise has no scale.
        index: Its place among the epoch's minibatches, from 0.
        num_minibatches: Number of the epoch's minibatches.
    """

    micro_batches: tuple[StepBatch, ...]
    counts: BatchCounts
    temperature: float
    index: int = 0
    num_minibatches: int = 1
    token_counts: TokenCounts = field(default_factory=TokenCounts)


def make_minibatches(
    groups: Sequence[TrajectoryGroup],
    credit: Credit,
    *,
    pad_token_id: int,
    temperature: float,
    minibatch_size: int | None,
    micro_batch_tokens: int,
    seed: int,
    minibatch_by: MinibatchBy = "steps",
    rules: RowRules = RowRules(),  # noqa: B008  frozen
    rank: int = 0,
    gather: Callable[[Any], list[Any]] = gather,
) -> list[Minibatch]:
    """Cut a rollout into minibatches: every step once, shuffled, sizes equal but for one row, or but for one episode.

    Minibatches of several ranks are cut as a single process would cut them; each rank holds its own steps of each.
    Ranks with fewer micro-batches than others get some that only fill up, so that all take part in equally many
    backward passes.

    Args:
        groups: The rollout.
        credit: Its credit; rows as in ``StepTable.from_groups(groups)``.
        pad_token_id: Fills rows up.
        temperature: That replies were drawn at.
        minibatch_size: Steps of one optimizer step, of all ranks, at most; None takes all in one.
        micro_batch_tokens: Rows times longest row of a micro-batch, at most.
        seed: Of the shuffle.
        minibatch_by: What is shuffled, and stays whole: steps, or episodes, which share most of their tokens.
        rules: How sequences lie in rows.
        rank: Of this process.
        gather: Gives every rank's value to every rank.

    Raises:
        ValueError: If the credit is not of these groups, a size is not positive, or a step's log-probabilities do not
            match its tokens.
    """
    steps = step_rows(groups)
    if len(credit.advantage) != len(steps):
        raise ValueError(f"credit must have one row per step, got {len(credit.advantage)} for {len(steps)} steps")
    share = [1 / len(trajectory.steps) for trajectory in _trajectories(groups) for _ in trajectory.steps]
    tasks = [group.task_id for group in groups for trajectory in group.trajectories for _ in trajectory.steps]
    lengths = [[len(trajectory.steps) for trajectory in group.trajectories] for group in groups]
    ours, episodes = _places(gather(lengths), rank)
    parts, planned = [], []
    for places in plan_minibatches(
        episodes if minibatch_by == "episodes" else [1] * sum(episodes), minibatch_size, seed
    ):
        own = [ours[place] for place in places if place in ours]
        pairs = [(steps[row].prompt_ids, steps[row].completion_ids) for row in own]
        trees = token_trees(pairs, [tasks[row] for row in own])
        micro_batches = [
            make_step_batch(part, own, steps, share, credit, pad_token_id)
            for part in plan_micro_batches(trees, micro_batch_tokens, rules)
        ]
        parts.append(micro_batches)
        num_tokens, num_trajectories = sum(len(reply) for _, reply in pairs), sum(share[row] for row in own)
        planned.append((len(micro_batches), num_tokens, len(own), num_trajectories, _counts(micro_batches, trees)))
    minibatches = []
    for index, (micro_batches, *everywhere) in enumerate(zip(parts, *gather(planned), strict=True)):
        numbers, tokens, rows, trajectories, counts = zip(*everywhere, strict=True)
        micro_batches += [_filling(pad_token_id)] * (max(numbers) - len(micro_batches))
        minibatches.append(
            Minibatch(
                micro_batches=tuple(micro_batches),
                counts=BatchCounts(
                    num_tokens=max(1, sum(tokens)), num_rows=sum(rows), num_trajectories=sum(trajectories)
                ),
                temperature=temperature or 1.0,
                index=index,
                num_minibatches=len(parts),
                token_counts=sum(counts, TokenCounts()),
            )
        )
    return minibatches


def _counts(micro_batches: Sequence[StepBatch], trees: Sequence[TokenTree]) -> TokenCounts:
    """Tokens of a rank's part of a minibatch."""
    return TokenCounts(
        computed=sum(part.tokens.input_ids.numel() for part in micro_batches),
        distinct=sum(tree.num_tokens for tree in trees),
        of_rows=sum(sum(tree.lengths) for tree in trees),
    )


def prepare(
    minibatches: Sequence[Minibatch],
    policy: PolicyView,
    token_credit: TokenCredit | None = None,
    progress: float = math.nan,
) -> list[Minibatch]:
    """Add what the policy says of its replies before the update changes it.

    Ratios are taken to the policy's own log-probabilities where it ``rescores``, and a token credit, if there is one,
    spreads the advantages over tokens.

    Raises:
        ValueError: If the token credit does not give one finite number for every token.
    """
    if token_credit is None and not policy.rescores:
        return list(minibatches)
    needs = token_credit.needs if token_credit else frozenset()
    countdown = Countdown("before the update: minibatch")
    prepared, facts = [], []
    for number, minibatch in enumerate(minibatches):
        parts, known = [], []
        for index, part in enumerate(minibatch.micro_batches):
            countdown.reach(number + index / len(minibatch.micro_batches), len(minibatches))
            scores: dict[str, Tensor] = {}
            if policy.rescores or needs:
                scored = policy.score(part.tokens, minibatch.temperature)
                scores = {name: each.float().cpu() for name, each in zip(("logprobs", "entropy"), scored, strict=True)}
            parts.append(replace(part, old_logprobs=scores["logprobs"]) if policy.rescores else part)
            written = part.tokens.action_mask & (part.row_weight > 0).unsqueeze(1)
            needed = {name: scores[name] for name in scores.keys() & needs}
            known.append(TokenFacts(advantage=part.advantage, action_mask=written, **needed))
        prepared.append(replace(minibatch, micro_batches=tuple(parts)))
        facts.append(known)
    if token_credit is None:
        return prepared
    spread = token_credit.spread(facts, progress)
    return [
        replace(
            minibatch,
            micro_batches=tuple(
                replace(part, advantage=_of_tokens(advantage, known, token_credit))
                for part, advantage, known in zip(minibatch.micro_batches, advantages, of_parts, strict=True)
            ),
        )
        for minibatch, advantages, of_parts in zip(prepared, spread, facts, strict=True)
    ]


def _of_tokens(advantage: Tensor, known: TokenFacts, source: TokenCredit) -> Tensor:
    """A token credit's advantages, 0 off the mask."""
    if advantage.shape != known.advantage.shape or not advantage[known.action_mask].isfinite().all():
        raise ValueError(
            f"{type(source).__name__}.spread must give a finite number for each token, {tuple(known.advantage.shape)}, "
            f"got {tuple(advantage.shape)}"
        )
    return torch.where(known.action_mask, advantage, 0.0).float()


def _places(lengths: Sequence[Sequence[Sequence[int]]], rank: int) -> tuple[dict[int, int], list[int]]:
    """A rank's rows, by their places in the table of all ranks, and the steps of each episode of that table.

    ``lengths`` are the steps of each episode of each group of each rank; groups stand in the table in the order in
    which tasks are dealt.
    """
    groups = interleave([[(owner, group) for group in each] for owner, each in enumerate(lengths)])
    owners = [owner for owner, group in groups for _ in range(sum(group))]
    places = [place for place, owner in enumerate(owners) if owner == rank]
    return {place: row for row, place in enumerate(places)}, [length for _, group in groups for length in group]


def _filling(pad_token_id: int) -> StepBatch:
    """A micro-batch without a step: its loss is 0, and so is its gradient."""
    return StepBatch(
        tokens=make_token_batch([((pad_token_id,), (pad_token_id,))], pad_token_id),
        old_logprobs=torch.zeros(1, 1),
        engine_logprobs=torch.zeros(1, 1),
        advantage=torch.zeros(1, 1),
        trajectory_share=torch.zeros(1),
        row_weight=torch.zeros(1),
        row=torch.full((1,), -1),
    )


def step_rows(groups: Sequence[TrajectoryGroup]) -> list[Step]:
    """Every step, in the row order of ``StepTable.from_groups``."""
    return [step for trajectory in _trajectories(groups) for step in trajectory.steps]


def _trajectories(groups: Sequence[TrajectoryGroup]) -> list[Trajectory]:
    return [trajectory for group in groups for trajectory in group.trajectories]


def plan_minibatches(lengths: Sequence[int], minibatch_size: int | None, seed: int) -> list[list[int]]:
    """Shuffle what stays whole, steps or episodes, and deal it into the fewest minibatches of ``minibatch_size`` rows.

    Minibatches of steps are equal but for one row, and none is larger than ``minibatch_size``. Those of episodes are as
    equal as the shuffled order lets them be: a bound between two lies less than an episode from where it would be.
    Without a size all rows are in one minibatch; of no rows there is none, and none is empty.

    Args:
        lengths: Rows of each thing that stays whole, in the order of the table.
        minibatch_size: Rows of a minibatch.
        seed: Of the shuffle.

    Raises:
        ValueError: If ``minibatch_size`` is not positive.

    Example:
        >>> [len(rows) for rows in plan_minibatches([1] * 10, 4, seed=0)]
        [4, 3, 3]
    """
    if minibatch_size is not None and minibatch_size < 1:
        raise ValueError(f"minibatch_size must be >= 1, got {minibatch_size}")
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends):
        return []
    order = np.random.default_rng(seed).permutation(len(ends))
    parts = 1 if minibatch_size is None else -(-int(ends[-1]) // minibatch_size)
    bounds = [int(part[0]) for part in np.array_split(np.arange(ends[-1]), parts)]
    begins = np.cumsum([0, *(lengths[index] for index in order[:-1])])
    middles = (begins[1:] + begins[:-1] - 1) // 2
    cuts = np.unique(np.searchsorted(middles, bounds))  # where something begins, as near to each bound as may be
    return [
        [row for index in part for row in range(ends[index] - lengths[index], ends[index])]
        for part in np.split(order, cuts[1:])
    ]


def make_step_batch(
    trees: Sequence[Sequence[TokenTree]],
    rows: Sequence[int],
    steps: Sequence[Step],
    trajectory_share: Sequence[float],
    credit: Credit,
    pad_token_id: int,
) -> StepBatch:
    """Put some of a rollout's steps into tensors, in the order of their trees.

    ``trees`` are those of each row of tokens, of the steps at ``rows`` of the rollout's table. ``steps``, ``credit``
    and ``trajectory_share``, one over the number of steps of a step's trajectory, are of the whole table.

    Raises:
        ValueError: If a step has not one log-probability per written token.
    """
    chosen = [rows[index] for row in trees for tree in row for index in tree.pairs]
    for row in chosen:
        if len(steps[row].logprobs) != len(steps[row].completion_ids):
            raise ValueError(
                f"logprobs must match completion_ids, got {len(steps[row].logprobs)} for "
                f"{len(steps[row].completion_ids)} tokens in row {row}"
            )
    pairs = [(steps[row].prompt_ids, steps[row].completion_ids) for row in rows]
    tokens = make_token_batch(pairs, pad_token_id, trees)
    engine_logprobs = torch.zeros(tokens.reply_ids.shape)
    engine_logprobs[tokens.action_mask] = torch.tensor([value for row in chosen for value in steps[row].logprobs])
    advantage = torch.from_numpy(credit.advantage[chosen].astype(np.float32))
    scale = credit.clip_scale
    return StepBatch(
        tokens=tokens,
        old_logprobs=engine_logprobs,
        engine_logprobs=engine_logprobs,
        advantage=advantage.unsqueeze(1) * tokens.action_mask,
        trajectory_share=torch.tensor([trajectory_share[row] for row in chosen]),
        row_weight=torch.ones(len(chosen)),
        row=torch.tensor(chosen),
        clip_scale=None if scale is None else torch.from_numpy(scale[chosen].astype(np.float32)),
    )
