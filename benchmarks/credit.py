"""How fast credit is computed: against a plain Python loop, from 10,000 rows to a million, and by similarity.

    python benchmarks/credit.py [--largest 1000000]

Every comparison is made in one run, on the same tables, and the results are asserted to be equal. Use an idle core.
"""

import argparse
import random
import string
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gigpo_lightning import algorithm
from gigpo_lightning.algorithm import CreditEstimator, GiGPO, OrderedEstimator, RewardFlow, SimilarityGrouping
from gigpo_lightning.trajectory import StepTable

OUT = Console()
REFERENCE: dict[str, Any] = {"episode_statistics": "step", "penalty_placement": "step"}


def make_table(num_groups: int, num_rows: int, *, shuffled: bool = True, seed: int = 0) -> StepTable:
    """Groups of eight episodes of like total length, in a few dozen states each, some of them met again and again."""
    draw = np.random.default_rng(seed)
    num_trajectories = 8 * num_groups
    shares = draw.uniform(0.3, 1.7, num_trajectories)
    lengths = np.maximum(1, (shares / shares.sum() * num_rows).astype(int))
    lengths[: num_rows - lengths.sum()] += 1
    trajectory = np.repeat(np.arange(num_trajectories), lengths)
    group = trajectory // 8
    step = np.concatenate([np.arange(length) for length in lengths])
    success = (draw.random(num_trajectories) < 0.5)[trajectory]
    last = np.r_[trajectory[1:] != trajectory[:-1], True]
    state = np.minimum(draw.zipf(1.3, len(trajectory)) - 1, 60)
    observations = [
        f"You arrive at place {place}. On it, you see {place * 7919 % 97} things. " * 3 for place in range(61)
    ]
    anchors = np.empty(len(trajectory), dtype=object)
    anchors[:] = [observations[place] for place in state.tolist()]
    order = draw.permutation(len(trajectory)) if shuffled else np.arange(len(trajectory))
    reached = np.where(last, anchors[draw.permutation(len(trajectory))], np.roll(anchors, -1))
    return StepTable(
        episode_group_id=group[order],
        trajectory_id=trajectory[order],
        step_index=step[order],
        anchor_key=anchors[order],
        next_anchor_key=reached[order],
        reward=np.where(last & success, 10.0, 0.0)[order],
        valid_action=(draw.random(len(trajectory)) < 0.9)[order],
        success=success[order],
        policy_version=np.zeros(len(trajectory), dtype=np.int64),
    )


def plain_loop(table: StepTable, *, discount: float = 0.95, penalty: float = 0.1) -> list[float]:
    """GiGPO with the paper's statistics and std, in linear time: one dictionary a statistic, one pass a quantity."""
    groups = table.episode_group_id.tolist()
    rewards = [
        r - (0.0 if ok else penalty) for r, ok in zip(table.reward.tolist(), table.valid_action.tolist(), strict=True)
    ]
    rows_of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, (trajectory, step) in enumerate(zip(table.trajectory_id.tolist(), table.step_index.tolist(), strict=True)):
        rows_of[trajectory].append((step, row))
    returns = [0.0] * len(rewards)
    scores: dict[int, float] = {}
    scores_of: dict[int, list[float]] = defaultdict(list)
    for trajectory, steps in rows_of.items():
        steps.sort(reverse=True)
        running = 0.0
        for _, row in steps:
            running = rewards[row] + discount * running
            returns[row] = running
        scores[trajectory] = sum(rewards[row] for _, row in steps)
        scores_of[groups[steps[0][1]]].append(scores[trajectory])
    keys = list(zip(groups, table.anchor_key, strict=True))
    returns_of: dict[tuple[int, object], list[float]] = defaultdict(list)
    for key, value in zip(keys, returns, strict=True):
        returns_of[key].append(value)

    def statistics(values: list[float]) -> tuple[float, float]:
        return (fmean(values), stdev(values) + 1e-6) if min(values) < max(values) else (values[0], 1.0)

    episode = {group: statistics(values) for group, values in scores_of.items()}
    step = {key: statistics(values) for key, values in returns_of.items()}
    result = []
    for row, trajectory in enumerate(table.trajectory_id.tolist()):
        (e_mean, e_std), (s_mean, s_std) = episode[groups[row]], step[keys[row]]
        result.append((scores[trajectory] - e_mean) / e_std + (returns[row] - s_mean) / s_std)
    return result


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The best of some repeats."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


EXPORTED = [getattr(algorithm, name) for name in algorithm.__all__]
EVERY: dict[str, CreditEstimator] = {
    kind.__name__: kind()
    for kind in EXPORTED
    if isinstance(kind, type) and hasattr(kind, "estimate") and kind not in (CreditEstimator, OrderedEstimator)
} | {
    "GiGPO, std": GiGPO(scale_by_std=True),
    "GiGPO, reference rules": GiGPO(scale_by_std=True, **REFERENCE),
    "RewardFlow, rules of its code": RewardFlow(value_rule="first", floor_at_zero=False, end_of_longest=False),
}


def against_a_loop() -> None:
    """6,400 rows, 16 groups of 8."""
    table = make_table(16, 6400)
    estimator = GiGPO(scale_by_std=True)
    np.testing.assert_allclose(estimator.estimate(table).advantage, plain_loop(table), atol=1e-6)
    loop = seconds(lambda: plain_loop(table))
    report = Table("estimator", "milliseconds", title=f"{len(table):,} rows, 16 groups of 8")
    report.add_row("a linear Python loop, GiGPO", f"{1000 * loop:.1f}")
    for name, each in EVERY.items():
        report.add_row(name, f"{1000 * seconds(lambda each=each: each.estimate(table)):.2f}")
    OUT.print(report)
    OUT.print(f"GiGPO against the loop: {loop / seconds(lambda: estimator.estimate(table)):.1f} times faster\n")


def every_by_size(largest: int) -> None:
    """All estimators on large tables, and how their time grows from a tenth of the rows to all of them."""
    sizes = (largest // 10, largest)
    tables = [make_table(size // 400, size) for size in sizes]
    report = Table(
        "estimator", *(f"{size:,} rows, s" for size in sizes), "power", title="every estimator, rows shuffled"
    )
    for name, each in EVERY.items():
        few, many = (seconds(lambda each=each, table=table: each.estimate(table), repeats=2) for table in tables)
        report.add_row(name, f"{few:.3f}", f"{many:.2f}", f"{np.log10(many / few):.2f}")
    OUT.print(report)


def by_size(largest: int, *, shuffled: bool) -> None:
    """Time and memory from 10,000 rows up."""
    estimator = GiGPO(scale_by_std=True)
    sizes = [size for size in (10_000, 30_000, 100_000, 300_000, 1_000_000, largest) if size <= largest]
    report = Table(
        "rows",
        "seconds",
        "peak memory, MB",
        "table, seconds",
        title=f"GiGPO by size, {'rows shuffled' if shuffled else 'rows as a rollout makes them'}",
    )
    times = []
    for size in sorted(set(sizes)):
        started = time.perf_counter()
        table = make_table(size // 400, size, shuffled=shuffled)
        built = time.perf_counter() - started
        times.append(seconds(lambda table=table: estimator.estimate(table), repeats=3))
        tracemalloc.start()
        estimator.estimate(table)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        report.add_row(f"{len(table):,}", f"{times[-1]:.4f}", f"{peak / 1e6:.0f}", f"{built:.2f}")
    OUT.print(report)
    exponent = np.polyfit(np.log(sorted(set(sizes))), np.log(times), 1)[0]
    OUT.print(f"time grows as rows to the power {exponent:.2f}\n")


def observations(num_groups: int, rows: int, characters: int, seed: int = 0) -> StepTable:
    """Groups of one-step episodes with long observations; a fifth are another's of their group but for a word."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(3000)]
    texts = []
    for _ in range(num_groups):
        group: list[str] = []
        for _ in range(rows):
            if group and draw.random() < 0.2:
                text, at = draw.choice(group), draw.randrange(characters - 10)
                group.append(text[:at] + draw.choice(words).ljust(10)[:10] + text[at + 10 :])
            else:
                group.append(" ".join(draw.choices(words, k=characters // 3))[:characters])
        texts += group
    anchors = np.empty(len(texts), dtype=object)
    anchors[:] = texts
    number = np.arange(len(texts))
    return StepTable(
        episode_group_id=number // rows,
        trajectory_id=number,
        step_index=np.zeros_like(number),
        anchor_key=anchors,
        reward=np.zeros(len(texts)),
        valid_action=np.ones(len(texts), dtype=bool),
        success=np.zeros(len(texts), dtype=bool),
        policy_version=np.zeros_like(number),
    )


def plain_difflib(table: StepTable, threshold: float) -> list[int]:
    """The reference's rule with nothing but difflib, in the same order."""
    founders: dict[int, list[tuple[int, str]]] = defaultdict(list)
    ids: list[int] = []
    for task, text in zip(table.episode_group_id.tolist(), table.anchor_key, strict=True):
        alike = (n for n, founder in founders[task] if SequenceMatcher(None, text, founder).ratio() >= threshold)
        number = next(alike, None)
        if number is None:
            number = max(ids, default=-1) + 1
            founders[task].append((number, text))
        ids.append(number)
    return ids


def similarity(num_groups: int = 256, rows: int = 15, characters: int = 2000, threshold: float = 0.9) -> None:
    """Grouping by similarity."""
    table = observations(num_groups, rows, characters)
    plain: list[int] = []
    slow = seconds(lambda: plain.extend(plain_difflib(table, threshold)), repeats=1)
    grouping = SimilarityGrouping(threshold)
    np.testing.assert_array_equal(grouping.group(table), plain)
    fast = seconds(lambda: grouping.group(table), repeats=3)
    OUT.print(
        f"similarity at {threshold}, {num_groups} groups of {rows} rows of {characters:,} characters: difflib "
        f"{slow:.2f} s, ours {fast:.3f} s, {slow / fast:.1f} times faster, {max(plain) + 1:,} groups, identical"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000)
    arguments = parser.parse_args()
    against_a_loop()
    every_by_size(arguments.largest)
    by_size(arguments.largest, shuffled=False)
    by_size(arguments.largest, shuffled=True)
    similarity()
