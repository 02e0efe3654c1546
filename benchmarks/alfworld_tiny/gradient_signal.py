"""How much of each estimator's gradient is signal: what a step along it is worth in success, before any training.

    gigpo fit --config configs/alfworld/tiny_cpu.yaml --trainer.max_epochs 1 --trainer.limit_val_batches 0 \
        --trainer.num_sanity_val_steps 0 --model.init_args.optimizer.init_args.lr 0 \
        --data.init_args.tasks_per_epoch 300 --data.init_args.num_slots 128 --trainer.default_root_dir runs/signal
    python benchmarks/alfworld_tiny/gradient_signal.py \
        runs/signal/lightning_logs/version_0/trajectories/epoch_0.parquet configs/alfworld/tiny_policy --groups 200

Every group of episodes gives one gradient g of the policy loss by each estimator, all from the same episodes: the
variants that are listed here, and every other exported estimator with its defaults; what it is in the loss, such as a
ratio of the whole reply, changes nothing on policy. A step of
a given length along a batch's mean gradient raises success, to first order, by its cosine with the gradient of success;
where noise is most of g that is

    efficiency = mean over pairs of different groups of g · s / root mean square of g

with s the unbiased gradient of success itself (RLOO without penalty). Noise of different groups is independent, so in
pairs of different groups it averages out. Adam's steps are measured as well: for them every coordinate of g is divided
by its own root mean square. An estimator with twice the efficiency of another does with a quarter of its episodes what
that one does. The errors are a jackknife over twenty parts of the groups, of the ratio: what all estimators share
cancels. First order is not all: what is gained soonest need not be what is gained in the end.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gigpo_lightning import algorithm
from gigpo_lightning.algorithm import GRPO, RLOO, CreditEstimator, GiGPO, OrderedEstimator
from gigpo_lightning.batch import make_step_batch, step_rows
from gigpo_lightning.rollout.store import read_trajectories
from gigpo_lightning.token_trees import plan_micro_batches, token_trees
from gigpo_lightning.trajectory import StepTable, TrajectoryGroup
from modules import PretrainedPolicy
from modules.policy import Policy

_logger = logging.getLogger(__name__)

SUCCESS = "RLOO, no penalty"
ESTIMATORS: Mapping[str, CreditEstimator] = {
    "GRPO": GRPO(),
    SUCCESS: RLOO(invalid_action_penalty=0.0),
    "GRPO, penalty 1": GRPO(invalid_action_penalty=1.0),
    "GRPO, std": GRPO(scale_by_std=True),
    "GRPO, std, step statistics": GRPO(scale_by_std=True, episode_statistics="step", penalty_placement="step"),
    "GiGPO": GiGPO(),
    "GiGPO, std": GiGPO(scale_by_std=True),
    "GiGPO, std, step statistics": GiGPO(scale_by_std=True, episode_statistics="step", penalty_placement="step"),
    "GiGPO, ω 4": GiGPO(step_advantage_weight=4.0),
    "GiGPO, γ .8": GiGPO(discount=0.8),
    "GiGPO, ω 4, γ .8": GiGPO(step_advantage_weight=4.0, discount=0.8),
    "GiGPO, ω 4, γ .6": GiGPO(step_advantage_weight=4.0, discount=0.6),
    "step level alone": GiGPO(episode_advantage_weight=0.0),
    "step level alone, γ .8": GiGPO(episode_advantage_weight=0.0, discount=0.8),
}


def every_estimator() -> dict[str, CreditEstimator]:
    """The variants above, and every other estimator of ours with its defaults."""
    exported = {name: getattr(algorithm, name) for name in algorithm.__all__}
    kinds = {name: kind for name, kind in exported.items() if isinstance(kind, type) and hasattr(kind, "estimate")}
    known = {CreditEstimator, OrderedEstimator, *map(type, ESTIMATORS.values())}
    return {**ESTIMATORS, **{name: kind() for name, kind in kinds.items() if kind not in known}}


def all_advantages(table: StepTable) -> dict[str, NDArray[np.float64]]:
    """What each estimator says of a table; those are left out that need what it has not, or say nothing."""
    found = {}
    for name, estimator in every_estimator().items():
        try:
            advantage = estimator.estimate(table).advantage
        except ValueError as error:
            _logger.warning("%s is left out: %s", name, error)
            continue
        if advantage.any():
            found[name] = advantage
        else:
            _logger.warning("%s is left out: all of its advantages are 0", name)
    return found


def group_gradients(
    policy: Policy, groups: Sequence[TrajectoryGroup], advantages: NDArray[np.float64], temperature: float
) -> NDArray[np.float32]:
    """The gradient of every group by every estimator, estimators x groups x parameters.

    Args:
        policy: Played the groups.
        groups: The rollout.
        advantages: Of each estimator and step.
        temperature: That replies were drawn at.
    """
    parameters = [each for each in policy.parameters() if each.requires_grad]
    size = sum(each.numel() for each in parameters)
    gradients = np.zeros((len(advantages), len(groups), size), dtype=np.float32)
    steps, credit = step_rows(groups), GRPO().estimate(StepTable.from_groups(groups))
    share = [1.0] * len(steps)  # of no effect here: the aggregation is by step
    row = 0
    for number, group in enumerate(groups):
        rows = range(row, row := row + sum(len(trajectory.steps) for trajectory in group.trajectories))
        pairs = [(steps[each].prompt_ids, steps[each].completion_ids) for each in rows]
        for part in plan_micro_batches(token_trees(pairs), 4096, policy.row_rules):
            batch = make_step_batch(part, rows, steps, share, credit, policy.tokenizer.pad_token_id)
            mask = batch.tokens.action_mask
            # The loss of one step is the mean over its tokens: aggregation "step".
            score = (policy(batch.tokens, temperature)[0] * mask).sum(1) / mask.sum(1)
            weights = torch.from_numpy(advantages[:, batch.row.numpy()]).float()
            for estimator, weight in enumerate(weights):
                keep = estimator < len(weights) - 1
                of_part = torch.autograd.grad(score, parameters, weight, retain_graph=keep)
                gradients[estimator, number] += torch.cat([each.flatten() for each in of_part]).numpy()
        if number % 20 == 19:
            _logger.info("%d of %d groups", number + 1, len(groups))
    return gradients


def ratios(gradients: NDArray[np.float32], names: Sequence[str], parts: int = 20) -> NDArray[np.float64]:
    """Efficiency over that of the first estimator, and its jackknife error, plain and for Adam, estimators x 4.

    Args:
        gradients: Estimators x groups x parameters.
        names: Of the estimators; ``SUCCESS`` is among them.
        parts: Of the groups, each left out once.
    """
    success = gradients[list(names).index(SUCCESS)]
    worth = np.array([_efficiencies(each, success, parts) for each in gradients])  # estimators x (plain, Adam) x sets
    worth /= worth[0].copy()
    whole, without = worth[..., 0], worth[..., 1:]
    spread = ((without - without.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    error = np.sqrt((parts - 1) / parts * spread)
    table: NDArray[np.float64] = np.stack([whole, error], axis=-1).reshape(len(gradients), 4)
    return table


def _efficiencies(gradient: NDArray[np.float32], success: NDArray[np.float32], parts: int) -> NDArray[np.float64]:
    """Efficiency of one estimator with all groups, then without each part of them; first plain, then for Adam."""
    groups = len(gradient)
    sets = [np.arange(groups), *(np.flatnonzero(np.arange(groups) % parts != part) for part in range(parts))]
    found = []
    for scaled in (gradient, gradient / (np.sqrt(np.mean(gradient**2, axis=0)) + 1e-12)):
        with_itself = np.einsum("gp,gp->g", scaled, success, dtype=np.float64)
        squares = np.einsum("gp,gp->g", scaled, scaled, dtype=np.float64)
        of_sets = []
        for chosen in sets:
            weights = np.isin(np.arange(groups), chosen).astype(np.float32)
            pairs = float((weights @ scaled) @ (weights @ success)) - with_itself[chosen].sum()
            pairs /= len(chosen) * (len(chosen) - 1)
            of_sets.append(pairs / np.sqrt(squares[chosen].mean()))
        found.append(of_sets)
    return np.array(found)


def main() -> None:
    """Print a row an estimator."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trajectories", type=Path)
    parser.add_argument("policy")
    parser.add_argument("--groups", type=int, default=300)
    arguments = parser.parse_args()
    groups, temperature = read_trajectories(arguments.trajectories)
    groups = groups[: arguments.groups]
    table = StepTable.from_groups(groups)
    advantages = all_advantages(table)
    policy = PretrainedPolicy(arguments.policy).build().eval()
    gradients = group_gradients(policy, groups, np.stack(list(advantages.values())), temperature)
    measured = ratios(gradients, list(advantages))
    success = table.success[table.step_index == 0].mean()
    shown = Table(title=f"{len(groups)} groups, {len(table)} steps, success {success:.2f}: efficiency over GRPO's")
    columns = ("estimator", "plain", "±", "episodes' worth", "Adam", "±", "episodes' worth")
    for column in columns:
        shown.add_column(column)
    for name, (plain, error, adam, adam_error) in zip(advantages, measured, strict=True):
        numbers = (plain, error, max(0.0, plain) ** 2, adam, adam_error, max(0.0, adam) ** 2)
        shown.add_row(name, *(f"{number:.2f}" for number in numbers))
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
