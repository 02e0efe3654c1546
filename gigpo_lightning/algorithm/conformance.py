"""What every estimator of credit keeps, to be checked on one's own."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from gigpo_lightning.algorithm.advantages import ComparesTasks, Credit
from gigpo_lightning.trajectory import StepTable

_ADVANTAGES = ("advantage", "episode_advantage", "step_advantage")


def check_estimator(estimator: Any, num_tables: int = 20, seed: int = 0, scores: Sequence[str] = ()) -> None:
    """Check that an estimator keeps the rules that training relies on; run it on your own.

    It estimates small random tables: few tasks, few episodes each that meet in few states and end there or elsewhere,
    some invalid actions, rows in any order. Its state is put back before each table and at the end. Tasks must not mix,
    unless it has an attribute ``whole_batch = True``, because it compares all episodes of an epoch. Without the state
    after the last action it may refuse a table, by a ValueError that names the column ``next_anchor_key``.

    Args:
        estimator: As a run would get it.
        num_tables: Tables that are tried.
        seed: Of the tables.
        scores: Names of the ``StepTable.scores`` that it reads; a tenth of the steps have none.

    Raises:
        ValueError: At the first rule that is broken; the message names it and what was found.
    """
    for method in ("estimate", "state_dict", "load_state_dict"):
        if not callable(getattr(estimator, method, None)):
            raise ValueError(f"an estimator must have a method {method}, which {type(estimator).__name__} has not")
    state = deepcopy(estimator.state_dict())
    if not isinstance(state, Mapping):
        raise ValueError(f"state_dict must return a dictionary, got {state!r}")
    generator = np.random.default_rng(seed)
    try:
        for _ in range(num_tables):
            table = _draw_table(generator, scores)
            _check_on(estimator, state, table, generator)
            _check_without_ends(estimator, state, replace(table, next_anchor_key=None))
    finally:
        estimator.load_state_dict(deepcopy(state))


def _check_on(estimator: Any, state: Mapping[str, Any], table: StepTable, generator: np.random.Generator) -> None:
    def estimated(asked: StepTable) -> Any:
        estimator.load_state_dict(deepcopy(state))
        return estimator.estimate(asked)

    kept = table.take(np.arange(len(table)))
    credit = estimated(table)
    _check_credit(credit, len(table))
    for name, column in table.columns().items():
        if not np.array_equal(column, getattr(kept, name)):
            raise ValueError(f"estimate must leave its table as it was, but changed column {name}")
    for name, column in table.scores.items():
        if not np.array_equal(column, kept.scores[name], equal_nan=True):
            raise ValueError(f"estimate must leave its table as it was, but changed scores[{name!r}]")
    _check_equal(credit, estimated(table), "the same table after load_state_dict must get the same credit")

    order = generator.permutation(len(table))
    parts = {name: getattr(credit, name) for name in (*_ADVANTAGES, "clip_scale")}
    reordered = replace(credit, **{name: part[order] for name, part in parts.items() if part is not None})
    rule = "the order of the rows must change nothing (an OrderedEstimator sorts them)"
    _check_equal(reordered, estimated(table.take(order)), rule)
    renamed = replace(
        table, episode_group_id=1000 + 3 * table.episode_group_id, trajectory_id=5000 + 7 * table.trajectory_id
    )
    _check_equal(credit, estimated(renamed), "the numbers of groups and trajectories must not matter")
    _check_groups(credit, table)
    if not (isinstance(estimator, ComparesTasks) and estimator.whole_batch):
        _check_tasks_apart(credit, estimated, table)


def _check_tasks_apart(credit: Credit, estimated: Any, table: StepTable) -> None:
    """Change what happened in one task: the others' credit must stay."""
    elsewhere = table.episode_group_id != table.episode_group_id.max()
    assert table.next_anchor_key is not None
    changed = replace(
        table,
        reward=np.where(elsewhere, table.reward, 7 * table.reward + table.step_index),
        valid_action=np.where(elsewhere, table.valid_action, ~table.valid_action),
        success=np.where(elsewhere, table.success, ~table.success),
        next_anchor_key=np.where(elsewhere | ~_is_last(table), table.next_anchor_key, "f"),
        scores={name: np.where(elsewhere, column, 7 * column + 1) for name, column in table.scores.items()},
    )
    before, after = credit.advantage[elsewhere], estimated(changed).advantage[elsewhere]
    if not np.array_equal(before, after):
        raise ValueError(
            "what happens in one task must not move the advantage of another's steps, but it did, by up to "
            f"{np.abs(before - after).max():.3g}; an estimator that means to compare tasks has whole_batch = True"
        )


def _is_last(table: StepTable) -> Any:
    """Whether a row is its trajectory's last, ``(S,)``."""
    length = np.zeros(table.trajectory_id.max() + 1, dtype=np.int64)
    np.maximum.at(length, table.trajectory_id, table.step_index)
    return table.step_index == length[table.trajectory_id]


def _check_without_ends(estimator: Any, state: Mapping[str, Any], table: StepTable) -> None:
    """A table need not know where its episodes ended; an estimator may refuse such a one."""
    estimator.load_state_dict(deepcopy(state))
    try:
        credit = estimator.estimate(table)
    except ValueError as error:
        if "next_anchor_key" not in str(error):
            raise
    else:
        _check_credit(credit, len(table))


def _check_credit(credit: object, num_rows: int) -> None:
    if not isinstance(credit, Credit):
        raise ValueError(f"estimate must return a Credit, got {type(credit).__name__}")
    optional = () if credit.clip_scale is None else ("clip_scale",)
    for name in (*_ADVANTAGES, "step_group_id", *optional):
        part: Any = getattr(credit, name)
        dtype = np.int64 if name == "step_group_id" else np.float64
        if not isinstance(part, np.ndarray) or part.dtype != dtype or part.shape != (num_rows,):
            found = f"{part.dtype} of shape {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
            raise ValueError(f"{name} must be {dtype.__name__} of shape ({num_rows},), got {found}")
        if not np.isfinite(part).all():
            raise ValueError(f"{name} must be finite, got {part[~np.isfinite(part)][0]}")
    if credit.clip_scale is not None and not (credit.clip_scale > 0).all():
        raise ValueError(f"clip_scale must be > 0, got {credit.clip_scale.min()}")
    for name, value in credit.metrics.items():
        if not isinstance(name, str) or not isinstance(value, int | float):
            raise ValueError(f"metrics must map names to numbers, got {name!r}: {value!r}")


def _check_groups(credit: Credit, table: StepTable) -> None:
    """Two tasks that look alike are two tasks."""
    owner: dict[int, int] = {}
    for step_group, task in zip(credit.step_group_id.tolist(), table.episode_group_id.tolist(), strict=True):
        if owner.setdefault(step_group, task) != task:
            raise ValueError(
                f"step_group_id must name groups within one episode group, but {step_group} is in {owner[step_group]} "
                f"and in {task}"
            )


def _check_equal(one: Credit, other: Credit, rule: str) -> None:
    for name in (*_ADVANTAGES, "clip_scale"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise ValueError(f"{rule}, to the last bit, but {name} differs")


def _draw_table(generator: np.random.Generator, scores: Sequence[str]) -> StepTable:
    """Two to four tasks, one to four episodes each, up to six steps long, in four states; rows shuffled.

    An episode ends in one of the four, or in a fifth state that no action is chosen in.
    """
    rows: list[tuple[int, int, int]] = []
    succeeded: list[bool] = []
    for task in range(int(generator.integers(2, 5))):
        for _ in range(int(generator.integers(1, 5))):
            rows += [(task, len(succeeded), step) for step in range(int(generator.integers(1, 7)))]
            succeeded.append(bool(generator.integers(2)))
    group, trajectory, step = np.array(rows).T
    states = np.array(list("abcde"), dtype=object)
    anchor = states[generator.integers(4, size=len(rows))]
    optional = generator.spawn(1)[0]  # optional columns do not change what is drawn for the others
    ends = states[optional.integers(5, size=len(rows))]
    table = StepTable(
        episode_group_id=group,
        trajectory_id=trajectory,
        step_index=step,
        anchor_key=anchor,
        reward=generator.choice([-1.0, 0.0, 0.1, 0.5, 1.0, 10.0], size=len(rows)),
        valid_action=generator.random(len(rows)) < 0.8,
        success=np.array(succeeded)[trajectory],
        policy_version=np.zeros(len(rows), dtype=np.int64),
        next_anchor_key=np.where(np.r_[np.diff(trajectory) == 0, False], np.roll(anchor, -1), ends),
        scores={
            name: np.where(optional.random(len(rows)) < 0.9, optional.normal(size=len(rows)), np.nan) for name in scores
        },
    )
    return table.take(generator.permutation(len(rows)))
