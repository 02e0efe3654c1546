"""From episodes and their credit to the tensors of an update.

Shape letters: B = rows (steps) of a micro-batch, T = tokens of its longest row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from gigpo_lightning.algorithm.advantages import Credit
from gigpo_lightning.algorithm.losses import BatchCounts
from gigpo_lightning.trajectory import Step, Trajectory, TrajectoryGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Prompts and replies as tensors, padded on the right.

    Attributes:
        input_ids: Prompt, then reply, ``(B, T)``.
        attention_mask: 1 where there is a token, ``(B, T)``.
        action_mask: True on the reply's tokens, ``(B, T)``.
    """

    input_ids: Int64[Tensor, "B T"]
    attention_mask: Int64[Tensor, "B T"]
    action_mask: Bool[Tensor, "B T"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepBatch:
    """Steps as tensors: prompt and reply side by side, padded on the right.

    Attributes:
        input_ids: Prompt, then reply, ``(B, T)``.
        attention_mask: 1 where there is a token, ``(B, T)``.
        action_mask: True on the tokens that the policy wrote, its stop token included, ``(B, T)``.
        old_logprobs: The log-probabilities that ratios are taken to, 0 off the mask, ``(B, T)``: the engine's, unless
            the trainer has computed its own.
        engine_logprobs: The engine's log-probabilities of those tokens, 0 elsewhere, ``(B, T)``.
        advantage: Of each step, ``(B,)``.
        trajectory_share: One over the number of steps of its trajectory, ``(B,)``.
        row_weight: 1, or 0 for rows that only fill up, ``(B,)``.
        row: The step's row in the rollout's table, -1 for rows that only fill up, ``(B,)``.
    """

    input_ids: Int64[Tensor, "B T"]
    attention_mask: Int64[Tensor, "B T"]
    action_mask: Bool[Tensor, "B T"]
    old_logprobs: Float32[Tensor, "B T"]
    engine_logprobs: Float32[Tensor, "B T"]
    advantage: Float32[Tensor, " B"]
    trajectory_share: Float32[Tensor, " B"]
    row_weight: Float32[Tensor, " B"]
    row: Int64[Tensor, " B"]

    def to(self, device: torch.device) -> "StepBatch":
        """The same batch on a device."""
        return StepBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch:
    """The steps of one optimizer step, in micro-batches that fit.

    Attributes:
        micro_batches: Together they hold every step once.
        counts: What all of them hold.
        temperature: Temperature that replies were drawn at; 1 for greedy ones, whose noise has no scale.
    """

    micro_batches: tuple[StepBatch, ...]
    counts: BatchCounts
    temperature: float


def make_minibatches(
    groups: Sequence[TrajectoryGroup],
    credit: Credit,
    *,
    pad_token_id: int,
    temperature: float,
    minibatch_size: int | None,
    micro_batch_tokens: int,
    seed: int,
) -> list[Minibatch]:
    """Cut a rollout into minibatches: every step once, shuffled, sizes equal but for one row.

    Args:
        groups: The rollout.
        credit: Its credit; rows as in ``StepTable.from_groups(groups)``.
        pad_token_id: Fills rows up.
        temperature: That replies were drawn at.
        minibatch_size: Steps of one optimizer step, at most; None takes all in one.
        micro_batch_tokens: Rows times longest row of a micro-batch, at most.
        seed: Of the shuffle.

    Raises:
        ValueError: If the credit is not of these groups, a size is not positive, or a step's log-probabilities do not
            match its tokens.
    """
    steps = step_rows(groups)
    if len(credit.advantage) != len(steps):
        raise ValueError(f"credit must have one row per step, got {len(credit.advantage)} for {len(steps)} steps")
    share = [1 / len(trajectory.steps) for trajectory in _trajectories(groups) for _ in trajectory.steps]
    minibatches = []
    for rows in plan_minibatches(len(steps), minibatch_size, seed):
        lengths = [len(steps[row].prompt_ids) + len(steps[row].completion_ids) for row in rows]
        plan = plan_micro_batches(lengths, micro_batch_tokens)
        micro_batches = [make_step_batch([rows[i] for i in part], steps, share, credit, pad_token_id) for part in plan]
        minibatches.append(
            Minibatch(
                micro_batches=tuple(micro_batches),
                counts=BatchCounts(
                    num_tokens=max(1, sum(len(steps[row].completion_ids) for row in rows)),
                    num_rows=len(rows),
                    num_trajectories=sum(share[row] for row in rows),
                ),
                temperature=temperature or 1.0,
            )
        )
    return minibatches


def step_rows(groups: Sequence[TrajectoryGroup]) -> list[Step]:
    """Every step, in the row order of ``StepTable.from_groups``."""
    return [step for trajectory in _trajectories(groups) for step in trajectory.steps]


def _trajectories(groups: Sequence[TrajectoryGroup]) -> list[Trajectory]:
    return [trajectory for group in groups for trajectory in group.trajectories]


def plan_minibatches(num_rows: int, minibatch_size: int | None, seed: int) -> list[list[int]]:
    """Shuffle the rows and deal them into the fewest minibatches of at most ``minibatch_size``, equal but for one row.

    Args:
        num_rows: Rows to deal; no row gives no minibatch.
        minibatch_size: Rows of a minibatch, at most; None puts all rows into one.
        seed: Of the shuffle.

    Returns:
        Row numbers, each exactly once.

    Raises:
        ValueError: If ``minibatch_size`` is not positive.

    Example:
        >>> [len(rows) for rows in plan_minibatches(10, 4, seed=0)]
        [4, 3, 3]
    """
    if minibatch_size is not None and minibatch_size < 1:
        raise ValueError(f"minibatch_size must be >= 1, got {minibatch_size}")
    if not num_rows:
        return []
    order = np.random.default_rng(seed).permutation(num_rows)
    parts = 1 if minibatch_size is None else -(-num_rows // minibatch_size)
    return [part.tolist() for part in np.array_split(order, parts)]


def plan_micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Pack rows of like length together, so that rows times longest row stays within the budget.

    A row longer than the budget gets a micro-batch of its own: it is never cut.

    Args:
        lengths: Tokens of each row.
        token_budget: Rows times longest row of a micro-batch, at most.

    Returns:
        Positions in ``lengths``, each once, shortest rows first.

    Raises:
        ValueError: If ``token_budget`` is not positive.

    Example:
        >>> plan_micro_batches([5, 1, 2, 2], token_budget=6)
        [[1, 2, 3], [0]]
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be >= 1, got {token_budget}")
    plan: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if plan and (len(plan[-1]) + 1) * lengths[position] <= token_budget:
            plan[-1].append(position)
        else:
            plan.append([position])
    return plan


def make_token_batch(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int) -> TokenBatch:
    """Put prompts and replies into tensors.

    Args:
        pairs: Token ids of each prompt and of its reply.
        pad_token_id: Fills rows up.
    """
    shape = (len(pairs), max(len(prompt) + len(reply) for prompt, reply in pairs))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    action_mask = np.zeros(shape, dtype=bool)
    for index, (prompt, reply) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(reply)
        input_ids[index, :start] = prompt
        input_ids[index, start:end] = reply
        attention_mask[index, :end] = 1
        action_mask[index, start:end] = True
    return TokenBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        action_mask=torch.from_numpy(action_mask),
    )


def make_step_batch(
    rows: Sequence[int],
    steps: Sequence[Step],
    trajectory_share: Sequence[float],
    credit: Credit,
    pad_token_id: int,
) -> StepBatch:
    """Put steps into tensors.

    Args:
        rows: Which, by their rows in the rollout's table.
        steps: All of the rollout's, in the table's order.
        trajectory_share: One over the number of steps of each step's trajectory.
        credit: Of the rollout.
        pad_token_id: Fills rows up.

    Raises:
        ValueError: If a step has not one log-probability per written token.
    """
    chosen = [steps[row] for row in rows]
    for row, step in zip(rows, chosen, strict=True):
        if len(step.logprobs) != len(step.completion_ids):
            raise ValueError(
                f"logprobs must match completion_ids, got {len(step.logprobs)} for {len(step.completion_ids)} tokens "
                f"in row {row}"
            )
    tokens = make_token_batch([(step.prompt_ids, step.completion_ids) for step in chosen], pad_token_id)
    engine_logprobs = torch.zeros(tokens.input_ids.shape)
    engine_logprobs[tokens.action_mask] = torch.tensor([value for step in chosen for value in step.logprobs])
    return StepBatch(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        action_mask=tokens.action_mask,
        old_logprobs=engine_logprobs,
        engine_logprobs=engine_logprobs,
        advantage=torch.from_numpy(credit.advantage[list(rows)].astype(np.float32)),
        trajectory_share=torch.tensor([trajectory_share[row] for row in rows]),
        row_weight=torch.ones(len(rows)),
        row=torch.tensor(list(rows), dtype=torch.int64),
    )
