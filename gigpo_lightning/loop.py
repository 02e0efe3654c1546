"""One GiGPO iteration after the other, from top to bottom, without Lightning.

This is what a Lightning run does, in one process, to the last bit; ``tests/test_loop.py`` compares the weights. There
``RolloutDataModule`` plays, ``GiGPOModule`` learns, and callbacks watch.
"""

from collections.abc import Iterator, Sequence

from gigpo_lightning.algorithm import CreditEstimator
from gigpo_lightning.batch import TokenCounts
from gigpo_lightning.experience import Batching, Experience, StepScorer
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.rollout.player import HeldOutGroups, RolloutPlayer
from gigpo_lightning.update import Learner


def train(
    player: RolloutPlayer,
    policy: PolicyView,
    credit: CreditEstimator,
    learner: Learner,
    batching: Batching,
    epochs: int,
    held_out_splits: Sequence[str] = (),
    scorers: Sequence[StepScorer] = (),
) -> Iterator[tuple[dict[str, float], list[HeldOutGroups]]]:
    """Train a policy, and yield each epoch's metrics and evaluations.

    Args:
        player: Plays episodes on an engine that is proved to have the policy's weights.
        policy: Is trained.
        credit: Assigns the advantage of every step.
        learner: Updates the policy; has its optimizer and scheduler.
        batching: How an epoch's steps are cut into minibatches.
        epochs: Number of iterations.
        held_out_splits: Evaluated after each.
        scorers: Give every step numbers before credit is assigned.
    """
    player.read_panels([player.train_split, *held_out_splits])
    try:
        for epoch in range(epochs):
            played = player.play(epoch, policy)  # the engine first gets the policy's weights, and proves it
            experience = Experience.of(
                played,
                credit,  # A = A_E + ω·A_S, one advantage a step
                epoch=epoch,
                policy_version=policy.policy_version,
                temperature=player.sampling.temperature,
                scorers=scorers,
                policy=player.engine,
            )
            metrics, progress = experience.metrics(), epoch / max(1, epochs - 1)
            minibatches = experience.minibatches(policy, batching, progress)
            metrics |= TokenCounts.of(minibatches).metrics()
            for minibatch in minibatches:
                losses = learner.update(minibatch, progress)
                metrics |= {f"loss/{name}": value for name, value in losses.items()}  # of the last one
            learner.end_epoch()
            yield metrics, [player.evaluate(split, policy) for split in held_out_splits]
    finally:
        player.close()
